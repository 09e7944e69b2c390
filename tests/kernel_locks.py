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

_PROC_LOCKS = Path("/proc/locks")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_READS = 5
"""The kernel tells a page at a time. Where there are more locks, and others' come and go between two pages, one
may be left out: it is not left out every time."""


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
    found = set()
    for _ in range(_READS):
        text = _PROC_LOCKS.read_text()
        for line in _LINE.finditer(text):
            if _file(line) == file and (line["start"], line["end"]) == ("0", "0"):
                found.add(KernelLock(line["mode"], int(line["pid"])))
        if len(text) < _PAGE:
            break
    return sorted(found)


def locks_of(pid: int) -> dict[tuple[int, int], str]:
    """The mode of each POSIX lock of a process, by the device and inode of its file.

    They are told of the descriptors that they were taken by: a lock ends with those. Raises AssertionError
    where one is on other bytes than byte 0 alone.
    """
    modes = {}
    for descriptor in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = descriptor.read_text()
        except FileNotFoundError:
            continue  # closed meanwhile, such as the one that lists them
        for line in _LINE.finditer(text):
            assert (line["start"], line["end"]) == ("0", "0"), line.group()
            major, minor, inode = _file(line)
            modes[os.makedev(major, minor), inode] = line["mode"]
    return modes


def _file(line: re.Match[str]) -> tuple[int, int, int]:
    return int(line["major"], 16), int(line["minor"], 16), int(line["inode"])


@contextmanager
def locked_by_this_process(path: Path) -> Iterator[None]:
    """Hold a write lock on byte 0 of path, as a program outside the lock daemon would."""
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        yield
