"""The pid file. It contains the pid of the daemon.

The daemon locks the file, so that a second daemon refuses to start.
"""

import os
from pathlib import Path

from lockd.daemon.failure import Failure
from lockd.linux.file_identity import identity_of
from lockd.linux.record_locks import lock_exclusive


def acquire(path: Path) -> int:
    """Lock the pid file, and write the pid of this process into it.

    :param path: the pid file. It is created if it does not exist.
    :returns: the descriptor of the file. It has to stay open as long as the daemon runs: closing it ends the
        lock.
    :raises Failure: another daemon has locked the file, or the file cannot be written.
    """
    try:
        while True:
            # Nothing else in this process has the file open yet. So closing it ends no lock (Invariant 1).
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                lock_exclusive(fd)
                # A daemon that ends removes the file before it releases the lock. So the locked file may no
                # longer be the one at this path.
                if path.exists() and identity_of(path.stat()) == identity_of(os.fstat(fd)):
                    write(fd)
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
        raise Failure(f"{path}: cannot be written: {error.strerror}") from None


def write(fd: int) -> None:
    """Write the pid of this process into the pid file. The first line of the file is a pid at any moment.

    :param fd: the descriptor of the locked pid file.
    :raises OSError: the file cannot be written.
    """
    os.ftruncate(fd, os.pwrite(fd, f"{os.getpid()}\n".encode(), 0))


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"
