"""Which record locks the kernel lists: all of them in /proc/locks, those of one descriptor in /proc/PID/fdinfo.

Some file systems list none; see ``lockd.linux.file_systems.lists_locks``.
"""

import os
from typing import NamedTuple


class RecordLock(NamedTuple):
    """A POSIX record lock that a process holds.

    :ivar pid: the process.
    :ivar exclusive: whether it is a write lock.
    :ivar device: the device number of the file system. On file systems with several devices, such as btrfs, it is
        not the number that stat(2) returns.
    :ivar inode: the inode number of the file.
    :ivar start: the first locked byte, in decimal.
    :ivar end: the last locked byte, in decimal, or ``EOF``.
    """

    pid: int
    exclusive: bool
    device: int
    inode: int
    start: str
    end: str

    @property
    def is_on_first_byte(self) -> bool:
        """Whether it covers byte 0 alone, as the locks of a lock daemon do."""
        return (self.start, self.end) == ("0", "0")


def posix_locks(pid: int | None = None) -> list[RecordLock]:
    """Return the granted record locks of this host, as /proc/locks lists them.

    :param pid: return the locks of this process only.
    :returns: the locks, in the order of the list.
    """
    wanted = None if pid is None else str(pid)
    with open("/proc/locks", encoding="utf-8") as file:
        return [lock for line in file if (lock := _parse(line.split(), wanted)) is not None]


def descriptor_locks(pid: int, fd: int) -> list[RecordLock]:
    """Return the record locks of a process on the file behind one of its descriptors (/proc/PID/fdinfo/FD).

    :param pid: the process.
    :param fd: the number of the descriptor in that process.
    :returns: the locks.
    :raises OSError: there is no such process or descriptor, or this user may not look at it.
    """
    with open(f"/proc/{pid}/fdinfo/{fd}", encoding="utf-8") as file:
        lines = [line.removeprefix("lock:") for line in file if line.startswith("lock:")]
    return [lock for line in lines if (lock := _parse(line.split(), None)) is not None]


def _parse(fields: list[str], wanted: str | None) -> RecordLock | None:
    # number: POSIX ADVISORY WRITE pid major:minor:inode start end (proc(5)).
    # A lock that is still waited for has "->" in the second place.
    if fields[1] != "POSIX" or (wanted is not None and fields[4] != wanted):
        return None
    major, minor, inode = fields[5].split(":")
    device = os.makedev(int(major, 16), int(minor, 16))
    return RecordLock(int(fields[4]), fields[3] == "WRITE", device, int(inode), fields[6], fields[7])
