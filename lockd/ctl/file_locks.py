"""Finding and taking locks on lease files and disks in lockctl's own process.

A process loses its record locks on a file when it closes any descriptor of that file (Invariant 1). This
concerns only the locks of the process itself. So opening a file here cannot end a lock of the daemon, or of
any other process.
"""

import os

from lockd.linux import record_locks


def lock_holder(path: str) -> int | None:
    """Return the process that holds a lock on a file.

    :param path: the file.
    :returns: the pid of the process, or None if nobody holds a lock. The pid is 0 or negative if the kernel
        cannot name a process; see ``lockd.linux.record_locks.lock_holder``.
    :raises OSError: the file cannot be opened, or its file system cannot tell.
    """
    # O_NONBLOCK: the path may name a FIFO.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return record_locks.lock_holder(fd)
    finally:
        os.close(fd)


def lock_exclusive(fd: int) -> bool:
    """Try to take a write lock.

    :param fd: a descriptor of the file.
    :returns: whether the lock was granted.
    :raises OSError: the file system cannot lock.
    """
    try:
        record_locks.lock_exclusive(fd)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2) allows either
        return False
    return True
