"""The pid file: it names the daemon, and is locked by it, so that a second one refuses to start."""

import os
from pathlib import Path

from lockd.daemon.failure import Failure
from lockd.linux.file_identity import identity_of
from lockd.linux.record_locks import lock_exclusive


def acquire(path: Path) -> int:
    """Lock and write the pid file; return its descriptor, which has to stay open.

    :raises Failure: another daemon has it, or it cannot be written.
    """
    try:
        while True:
            # Nothing else in this process has the file open yet, so closing it ends no lock.
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                lock_exclusive(fd)
                # The daemon before this one may have removed the file before it let go of the lock.
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
    """Write this process's pid into the locked file, whose first line is a pid at any moment."""
    os.ftruncate(fd, os.pwrite(fd, f"{os.getpid()}\n".encode(), 0))


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"
