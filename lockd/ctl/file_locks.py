"""POSIX locks on the first byte of a file, tried by this process.

A process loses its POSIX locks on a file when it closes any descriptor of it (Invariant 1): that is about locks
of this process, which has none but those that it takes here. No other's lock ends by what is opened here.
"""

import fcntl
import os
import struct
from typing import Final

# struct flock: l_type, l_whence, l_start, l_len, l_pid; native sizes and alignment (fcntl(2)).
_FLOCK: Final = struct.Struct("hhqqi4x" if struct.calcsize("P") == 8 else "hhlli")
_FIRST_BYTE: Final = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)


def lock_holder(path: str) -> int | None:
    """Return the pid of a process that holds a lock on a file, or None where nobody does.

    The pid is 0 or less where the kernel can name none: a process of another host, or of a container that this
    one cannot see, or an open-file-description lock.

    :raises OSError: the file cannot be opened, or its file system cannot tell.
    """
    # Not blocking: a path may name a FIFO.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _FIRST_BYTE))
        return None if kind == fcntl.F_UNLCK else pid
    finally:
        os.close(descriptor)


def lock_exclusive(descriptor: int) -> bool:
    """Lock the file of a descriptor for writing; return whether that was granted.

    :raises OSError: its file system cannot lock.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2) leaves it open
        return False
    return True
