"""A process outside the lock table, which holds fcntl locks as any program may."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

MODES = {"READ": fcntl.LOCK_SH, "WRITE": fcntl.LOCK_EX}


class Outsider:
    """The process. It must not lock a file twice: closing either descriptor would end both locks (fcntl(2))."""

    command: Sequence[str] = (sys.executable, "-IS", __file__)

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def lock(self, path: Path, mode: str) -> bool:
        """Lock byte 0 of a file.

        :param path: the file.
        :param mode: ``READ`` or ``WRITE``, as in /proc/locks.
        :returns: whether it was granted.
        """
        return self._command("lock", mode, str(path)) == "True"

    def unlock_all(self) -> None:
        """End all locks."""
        self._command("unlock_all", "-", "-")

    def _command(self, *words: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        return self._process.stdout.readline().decode().strip()


def obey() -> None:
    """Run the commands on the lines of the standard input. Each has a line of output."""
    held: list[int] = []
    for line in sys.stdin:
        command, mode, path = line.rstrip("\n").split(" ", 2)
        granted = True
        if command == "lock":
            fd = os.open(path, os.O_RDWR)
            try:
                fcntl.lockf(fd, MODES[mode] | fcntl.LOCK_NB, 1)
                held.append(fd)
            except BlockingIOError:
                os.close(fd)
                granted = False
        else:
            while held:
                os.close(held.pop())
        print(granted, flush=True)


if __name__ == "__main__":
    obey()
