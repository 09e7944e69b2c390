"""Leases of this process on files, as file servers have them (F_SETLEASE in fcntl(2))."""

import fcntl
import os
import signal
from pathlib import Path


class Lease:
    """A lease of this process on a file. An open(2) by another process waits until the lease ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked_back = False
        self._fd = os.open(path, os.O_RDWR)
        self._before = signal.signal(signal.SIGIO, self._on_request)
        fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def _on_request(self, _number: int, _frame: object) -> None:
        self.asked_back = True

    def give_up(self) -> None:
        fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def close(self) -> None:
        os.close(self._fd)
        signal.signal(signal.SIGIO, self._before)
