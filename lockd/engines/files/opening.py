"""How the files of clients are opened, and which are not opened at all.

A client names any path. What it leads to must not wait, become the daemon's terminal or act on a device.
"""

import errno
import os
import stat
from typing import Final

SAFELY: Final = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Flags of every open(2) of a lockable file. Without O_NOCTTY, a terminal that a path leads to becomes the controlling terminal of a
session leader, as a service is, and its user can end the daemon by ^C (open(2), setsid(2))."""

WITHOUT_WAITING: Final = os.O_NOFOLLOW | SAFELY
EXCLUSIVELY: Final = os.O_CREAT | os.O_EXCL | WITHOUT_WAITING
NEW: Final = os.O_RDWR | EXCLUSIVELY

KIND: Final = 0o170000
"""The bits of a file's mode that tell its kind: S_IFMT of inode(7)."""

REGULAR: Final = stat.S_IFREG

_UNOPENED: Final = {
    # As open(2) says it. A link is left to a worker thread.
    stat.S_IFDIR: (errno.EISDIR, os.strerror(errno.EISDIR)),
    stat.S_IFLNK: (errno.ELOOP, os.strerror(errno.ELOOP)),
    stat.S_IFSOCK: (errno.ENXIO, os.strerror(errno.ENXIO)),
    # No file at all, such as the descriptor of an epoll in /proc/PID/fd. open(2) would open a pidfd: the end of the lock
    # on it would come with the end of any other pidfd of that process (Invariant 1).
    0: (errno.ENXIO, os.strerror(errno.ENXIO)),
    # open(2) would open these.
    stat.S_IFIFO: (errno.ENOTBLK, "it is a pipe, neither a regular file nor a block device"),
    stat.S_IFCHR: (errno.ENOTBLK, "it is a character device, neither a regular file nor a block device"),
}
"""Why what is neither a regular file nor a block device is not opened. To open a character device can be an act: it
starts the timer of a watchdog, which resets the host, or rewinds a tape."""

DANGLING: Final = "it is a symbolic link to a file that does not exist"
PSEUDO: Final = "it is a file that the kernel makes up, and no disk"


def check_kind(status: os.stat_result, path: str) -> None:
    """Refuse what is neither a regular file nor a block device.

    :param status: what fstat(2) returned for the file.
    :param path: the file, for the error.
    :raises OSError: it is something else.
    """
    refusal = _UNOPENED.get(status.st_mode & KIND)
    if refusal is not None:
        raise OSError(*refusal, path)
