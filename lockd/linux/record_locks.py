"""POSIX record locks (fcntl(2), F_SETLK and F_GETLK) on byte 0 of a file, the byte that virtlockd locks.

Record locks belong to the process and survive execve(2). A process loses all its record locks on an inode when it
closes any descriptor of that inode: ``lockd.engines.files.inodes`` keeps that from happening in the daemon.
"""

import fcntl
import os
import struct
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, lockf
from typing import Final

_LOCKED_BYTES: Final = 1
_EXCLUSIVE: Final = LOCK_EX | LOCK_NB
_SHARED: Final = LOCK_SH | LOCK_NB
_lockf: Final = lockf

# struct flock: l_type, l_whence, l_start, l_len, l_pid; native sizes and alignment (fcntl(2)).
_FLOCK: Final = struct.Struct("hhqqi4x" if struct.calcsize("P") == 8 else "hhlli")
_ANY_LOCK: Final = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, _LOCKED_BYTES, 0)


def lock_exclusive(fd: int) -> None:
    """Take a write lock, or turn this process's read lock into a write lock.

    :param fd: a descriptor that is open for writing.
    :raises BlockingIOError: another process holds a conflicting lock (EAGAIN).
    :raises PermissionError: another process holds a conflicting lock (EACCES; fcntl(2) allows either).
    :raises OSError: the file system cannot lock.
    """
    _lockf(fd, _EXCLUSIVE, _LOCKED_BYTES)


def lock_shared(fd: int) -> None:
    """Take a read lock. Other processes may hold read locks at the same time.

    :param fd: a descriptor that is open for reading.
    :raises BlockingIOError: another process holds a write lock (EAGAIN).
    :raises PermissionError: another process holds a write lock (EACCES; fcntl(2) allows either).
    :raises OSError: the file system cannot lock.
    """
    _lockf(fd, _SHARED, _LOCKED_BYTES)


def unlock(fd: int) -> None:
    """Give up this process's lock.

    :param fd: a descriptor of the file.
    :raises OSError: the file system cannot unlock.
    """
    _lockf(fd, LOCK_UN, _LOCKED_BYTES)


def lock_holder(fd: int) -> int | None:
    """Ask which process holds a lock that keeps this process from taking a write lock (F_GETLK).

    :param fd: a descriptor of the file.
    :returns: the holder's pid, or None where no other process holds a lock. The pid is 0 or negative where the
        kernel cannot name a process: the holder is on another host, in a pid namespace that this process cannot
        see, or it is an open file description (F_OFD_SETLK in fcntl(2)).
    :raises OSError: the file system cannot tell.
    """
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, _ANY_LOCK))
    return None if kind == fcntl.F_UNLCK else pid
