"""The POSIX locks that the kernel lists in /proc. Every test that checks a lock asks these functions."""

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
"""How often a long list is read.

The kernel returns /proc/locks page by page. If other processes lock or unlock between two pages, it may omit
a lock. It does not omit the same lock in every reading.
"""


@dataclass(frozen=True, order=True)
class KernelLock:
    """A POSIX lock on the first byte of a file."""

    mode: str
    pid: int


def locks_on(path: Path) -> list[KernelLock]:
    """Return the POSIX locks on exactly byte 0 of a file, sorted; an empty list if the file is missing.

    QEMU's own locks on an image are not listed: they are open-file-description locks on other bytes.
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
    """Return the mode of each POSIX lock of a process, by the device and inode of the file.

    /proc/PID/fdinfo lists a lock with the descriptor that took it. Raises AssertionError if a lock is not on
    exactly byte 0.
    """
    modes = {}
    for descriptor in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = descriptor.read_text()
        except FileNotFoundError:
            continue  # closed in the meantime, such as the descriptor that listed the directory
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
