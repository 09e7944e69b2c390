"""The locks of another daemon on this host: a program with an engine of files of its own.

Each line of its standard input is a command, and each command has a line of output.
"""

import sys

from lockd.engines.files.engine import FilesEngine
from lockd.engines.files.inodes import Inodes
from lockd.engines.files.slow_mounts import SlowMounts
from lockd.locks.engine import Later
from lockd.locks.errors import Busy
from lockd.locks.resource import DIRECT, Resource


def main() -> None:
    """Run the commands of ``tests.outsider``."""
    engine = FilesEngine(Inodes(), SlowMounts())
    held: list[Resource] = []
    for line in sys.stdin:
        command, mode, path = line.rstrip("\n").split(" ", 2)
        granted = True
        if command == "lock":
            resource = Resource(DIRECT, path, path, engine, 0.0, mode == "READ", False)
            try:
                taken = engine.take(resource)
                while isinstance(taken, Later):
                    taken = taken.work()
                resource.hold = taken
                held.append(resource)
            except Busy:
                granted = False
        else:
            while held:
                later = engine.drop(held.pop())
                if later is not None:
                    later.work()
        print(granted, flush=True)


if __name__ == "__main__":
    main()
