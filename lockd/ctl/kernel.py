"""What the kernel says of POSIX locks: /proc/locks, and the locks of one descriptor in /proc/PID/fdinfo."""

import os
from typing import NamedTuple


class KernelLock(NamedTuple):
    """A POSIX lock that a process holds.

    :ivar device: of the file system, which is another one than stat(2) tells where one has several (btrfs).
    """

    pid: int
    exclusive: bool
    device: int
    inode: int
    start: str
    end: str

    @property
    def is_on_first_byte(self) -> bool:
        """Whether it is on byte 0 alone, as a lock daemon's are."""
        return (self.start, self.end) == ("0", "0")


def posix_locks() -> list[KernelLock]:
    """Return all POSIX locks of this host that are granted."""
    with open("/proc/locks", encoding="ascii") as file:
        return [lock for line in file if (lock := _parse(line)) is not None]


def descriptor_locks(pid: int, descriptor: int) -> list[KernelLock]:
    """Return the POSIX locks of a process on the file behind one of its descriptors."""
    try:
        with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
            lines = [line.removeprefix("lock:") for line in file if line.startswith("lock:")]
    except OSError:
        return []
    return [lock for line in lines if (lock := _parse(line)) is not None]


def _parse(line: str) -> KernelLock | None:
    # number: POSIX ADVISORY WRITE pid major:minor:inode start end; one that waits has "->" after its number.
    fields = line.split()
    if fields[1] != "POSIX":
        return None
    major, minor, inode = fields[5].split(":")
    device = os.makedev(int(major, 16), int(minor, 16))
    return KernelLock(int(fields[4]), fields[3] == "WRITE", device, int(inode), fields[6], fields[7])
