"""The kernel's POSIX locks (fcntl(2), F_SETLK) on byte 0, the byte that virtlockd locks.

They belong to the process, survive execve(2), and all that a process holds on an inode end when it closes any
descriptor of that inode: see ``inodes``.
"""

import fcntl
import os
import re
import struct
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, lockf
from pathlib import Path
from typing import Final

_LOCKED_BYTES: Final = 1
_EXCLUSIVELY: Final = LOCK_EX | LOCK_NB
_SHARED: Final = LOCK_SH | LOCK_NB
_lockf: Final = lockf

# struct flock: l_type, l_whence, l_start, l_len, l_pid; native sizes and alignment.
_FLOCK = struct.Struct("hhqqi4x" if struct.calcsize("P") == 8 else "hhlli")
_ANY_LOCK = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, _LOCKED_BYTES, 0)


def lock_exclusive(fd: int) -> None:
    """Lock for writing, or raise a shared lock to that.

    :raises BlockingIOError: another process holds a lock.
    :raises OSError: the file system cannot lock.
    """
    _lockf(fd, _EXCLUSIVELY, _LOCKED_BYTES)


def lock_shared(fd: int) -> None:
    """Lock for reading; others may do so too.

    :raises BlockingIOError: another process holds a lock for writing.
    :raises OSError: the file system cannot lock.
    """
    _lockf(fd, _SHARED, _LOCKED_BYTES)


EXCLUSIVE = "WRITE"
SHARED = "READ"
"""What the kernel calls the modes."""


def held_locks() -> dict[tuple[int, ...], str]:
    """Return the mode of this process's POSIX lock on each file, by device and inode, as the kernel says.

    The device is the file system's own, which is another one than stat(2) tells where one has several (btrfs).
    """
    # number: POSIX ADVISORY WRITE pid major:minor:inode start end
    own = re.compile(rf"POSIX +\w+ +(\w+) {os.getpid()} (\w+):(\w+):(\d+) ")
    return {
        (os.makedev(int(major, 16), int(minor, 16)), int(inode)): mode
        for mode, major, minor, inode in own.findall(Path("/proc/locks").read_text(encoding="ascii"))
    }


def held_lock(fd: int) -> str | None:
    """Return the mode of this process's POSIX lock on the file that is open as ``fd``, as the kernel says."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        # lock: number: POSIX ADVISORY WRITE pid major:minor:inode start end
        fields = line.split()
        if fields[0] == "lock:" and fields[2] == "POSIX":
            return fields[4]
    return None


def lock_holder(fd: int) -> int | None:
    """Return the pid of a process that keeps this one from locking, or None where there is none any more.

    The pid is 0 or less where the holder is no process of this host that the kernel can name: another host,
    another pid namespace, or an open-file-description lock (F_GETLK in fcntl(2)).

    :raises OSError: the file system cannot tell.
    """
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, _ANY_LOCK))
    return None if kind == fcntl.F_UNLCK else pid
