"""What the kernel itself says about POSIX locks: /proc/locks, the judge of every test."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(
    r"\d+: POSIX\s+ADVISORY\s+(?P<mode>READ|WRITE) (?P<pid>\d+) "
    r"(?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<inode>\d+) (?P<start>\d+) (?P<end>\d+|EOF)"
)


@dataclass(frozen=True, order=True)
class KernelLock:
    """A POSIX lock on the first byte of a file."""

    mode: str
    pid: int


def locks_on(path: Path) -> list[KernelLock]:
    """The POSIX locks on byte 0 alone of the file at path, sorted; none where there is no such file.

    QEMU's own locks on an image are open-file-description locks on other bytes, and so are not among them.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return []
    file = (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    return sorted(
        KernelLock(line["mode"], int(line["pid"]))
        for line in _LINE.finditer(Path("/proc/locks").read_text())
        if (int(line["major"], 16), int(line["minor"], 16), int(line["inode"])) == file
        and (line["start"], line["end"]) == ("0", "0")
    )


@contextmanager
def locked_by_this_process(path: Path) -> Iterator[None]:
    """Hold a write lock on byte 0 of path, as a program outside the lock daemon would."""
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        yield
