"""Finding and taking locks on lease files and disks in lockctl's own process.

A process loses its record locks on a file when it closes any descriptor of that file (Invariant 1). This
concerns only the locks of the process itself. So opening a file here cannot end a lock of the daemon, or of
any other process.
"""

import errno
import os
import stat

from lockd.linux import record_locks


def lock_holder(path: str) -> int | None:
    """Return the process that holds a lock on a file.

    :param path: the file.
    :returns: the pid of the process, or None if nobody holds a lock. The pid is 0 or negative if the kernel
        cannot name a process; see ``lockd.linux.record_locks.lock_holder``.
    :raises OSError: the file cannot be opened, or its file system cannot tell; or it is neither a regular file nor
        a block device.
    """
    fd = _open(path)
    try:
        return record_locks.lock_holder(fd)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    """Open what can be a disk, and nothing else: to open a watchdog starts it, and the host is reset a minute later."""
    pin = os.open(path, os.O_PATH | os.O_CLOEXEC)  # this opens no device (open(2))
    try:
        mode = os.fstat(pin).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise OSError(errno.ENOTBLK, "it is neither a regular file nor a block device", path)
        return os.open(f"/proc/self/fd/{pin}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(pin)


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
