"""The pid file. It contains the pid of the daemon.

The daemon locks the file, so that a second daemon refuses to start.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from lockd.daemon.failure import Failure
from lockd.linux.file_identity import identity_of
from lockd.linux.record_locks import lock_exclusive

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_SHOWN: Final = 20
"""How many characters of a pid file a message shows at most. The file may contain anything."""


def acquire(path: Path) -> int:
    """Lock the pid file, and write the pid of this process into it.

    A link is not followed: the file that it leads to would be overwritten. For the same reason, the file has to
    be an ordinary one of this user, without a second name.

    :param path: the pid file. It is created if it does not exist.
    :returns: the descriptor of the file. It has to stay open as long as the daemon runs: closing it ends the
        lock.
    :raises Failure: another daemon has locked the file, or the file cannot be written. It is removed then, unless it
        may be another daemon's.
    """
    try:
        while True:
            # Nothing else in this process has the file open yet. So closing it ends no lock (Invariant 1).
            fd = os.open(path, _FLAGS, 0o644)
            try:
                _check(path, os.fstat(fd))
                lock_exclusive(fd)
                # A daemon that ends removes the file before it releases the lock. So the locked file may no
                # longer be the one at this path.
                if _is_at(path, fd):
                    _fill(path, fd)
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    except (BlockingIOError, PermissionError) as error:
        if isinstance(error, PermissionError) and error.filename:
            raise Failure(f"{path}: cannot be written: {error.strerror}") from None
        raise Failure(f"{path}: another daemon is running (pid {_holder(path)}); stop that first") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Failure(f"{path}: is a symbolic link; remove it, or choose another --pid-file") from None
        raise Failure(f"{path}: cannot be written: {error.strerror}") from None


def is_of_another(path: Path, fd: int | None) -> bool:
    """Return whether there is a pid file of another daemon, whose files this one must not remove.

    :param path: the pid file.
    :param fd: the descriptor of this daemon's locked pid file, or None.
    :returns: False also if there is no pid file.
    """
    try:
        path.lstat()
        if fd is None or not _is_at(path, fd):
            return True
        # Whoever held this lock before, as after a live upgrade: this daemon has it, or another one.
        lock_exclusive(fd)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _check(path: Path, status: os.stat_result) -> None:
    """Check that nothing is lost if the file is overwritten."""
    if not stat.S_ISREG(status.st_mode):
        raise Failure(f"{path}: is no ordinary file; choose another --pid-file")
    if status.st_uid != os.geteuid():
        raise Failure(f"{path}: belongs to user {status.st_uid}; remove it, or choose another --pid-file")
    if status.st_nlink > 1:
        raise Failure(f"{path}: has another name too (a hard link); remove it, or choose another --pid-file")


def _is_at(path: Path, fd: int) -> bool:
    try:
        return identity_of(path.lstat()) == identity_of(os.fstat(fd))
    except FileNotFoundError:
        return False


def _fill(path: Path, fd: int) -> None:
    """Write the pid of this process into the pid file, or remove it: nobody else can have locked it.

    The first line of the file is a pid at any moment.
    """
    try:
        os.ftruncate(fd, os.pwrite(fd, f"{os.getpid()}\n".encode(), 0))
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _holder(path: Path) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(_SHOWN).strip() or "unknown"
    except OSError:
        return "unknown"
