"""The end of a daemon by SIGTERM, while guests have locks: nobody is killed, and the next daemon serves."""

import re
import signal

from tests.faults import life, start
from tests.faults.checks import PATIENCE, all_free, nobody_killed, require, soon
from tests.faults.points import MAIN
from tests.faults.tracer import Call, hit
from tests.faults.world import World

NAME = "end"
_LOG = re.compile(r"^write\(\d+<.*/log>")
THREADS = (MAIN,)


def prepare(world: World) -> None:
    """Give guests locks."""
    world.warm_up()
    life.begin(world)


def play(world: World) -> None:
    """End the daemon."""
    world.said()
    world.daemon.signal(signal.SIGTERM)
    soon(lambda: start.has_ended(world), "the daemon does not end", 4 * PATIENCE)


def finish(world: World) -> None:
    """Check how it has ended, and that another daemon can follow."""
    said, status = world.said(), world.daemon.process.returncode
    require(status == 0, f"the daemon ends with {status}: {said[-300:]}")
    require("Traceback" not in said, f"a traceback in the log: {said.strip().splitlines()[-1:]}")
    fault = hit(world.trace) or ""
    require(_LOG.search(fault) or "are no longer protected" in said, "the end is not told")
    nobody_killed(world.peers)
    world.end_peers()
    all_free(world.files, world.outsider)
    left = [path for path in world.runtime_files() if f'"{path}"' not in fault]
    # If the daemon cannot know whether the pid file is its own, all files may be another daemon's.
    require(not left or str(start.PID_FILE) in fault, f"the daemon leaves {left}")
    world.start_daemon()
    start.serve_guests(world)


def belongs(calls: list[Call]) -> list[Call]:
    """Return the calls of a recording that are played."""
    return calls
