"""The state file, which a daemon writes for the next program in the same process.

It is the same file as virtlockd's, so that each of the two daemons can take over from the other.
"""

import errno
import json
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from lockd.daemon.failure import Failure
from lockd.linux.processes import own_identity

_SIZE_MAX: Final = 2**30
"""The size of the largest state file that is read, in bytes: that of some three million locks."""


_NO_FILE: Final = frozenset((errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR))
"""The errors of open(2) if there is no file: there is nothing, a symbolic link or a socket."""

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def write(path: Path, state: dict[str, Any], size_max: int | None = None) -> None:
    """Write the state file, readable by this user only, and check what was written.

    The file is written as a draft beside it, and renamed. So it is complete, or not written at all.

    :param path: the path of the state file.
    :param state: the state, as a JSON object.
    :param size_max: how many bytes the next program can read; None for lockd's own limit.
    :raises Failure: the state is too large, or cannot be written. The draft is removed.
    """
    text = json.dumps(state, ensure_ascii=False, separators=(",", ":"))
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Failure(f"the state has text that cannot be encoded: {error.reason}") from None
    size_max = size_max or _SIZE_MAX
    if len(data) > size_max:
        raise Failure(f"the state has {len(data)} bytes; the next program can read {size_max} at most")
    draft = path.with_name(f"{path.name}.new")
    try:
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
        if draft.read_bytes() != data:
            raise Failure(f"{draft}: what was written cannot be read again")
        draft.rename(path)
    except OSError as error:
        raise Failure(f"{draft}: the state cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            draft.unlink()


def read(path: Path) -> dict[str, Any] | None:
    """Read the state that an earlier program in this process wrote.

    POSIX locks and descriptors belong to a process, so the state is useful only to the process that wrote it.
    A file of another process or another user is not used, nor is a symbolic link. Whatever else is found there
    does not hinder the start of the daemon.

    :param path: the path of the state file.
    :returns: the state, or None if there is no state of this process.
    :raises OSError: there may be one, and it cannot be read, or it cannot be told whose it is.
    """
    data = _content(path)
    if data is None:
        return None
    try:
        state = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) and _is_own(state) else None


def _content(path: Path) -> bytes | None:
    """Return the content of a file of this user, or None if there is no such file.

    :raises OSError: it cannot be read, or it cannot be told whether it is one.
    """
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size > _SIZE_MAX:
            return None
        with open(fd, "rb", closefd=False) as file:
            return file.read(_SIZE_MAX)
    finally:
        os.close(fd)


def _is_own(state: dict[str, Any]) -> bool:
    """Return whether this process wrote the state, and not an earlier process with the same pid.

    The state of virtlockd has only the pid. But if virtlockd ran in this process, one of the listening
    sockets of the state is open.

    :raises OSError: that cannot be told.
    """
    if state.get("magic") != str(os.getpid()):
        return False
    try:
        if "lockd" in state:
            return bool(state["lockd"]["process"] == own_identity())
        return any(
            _listens(entry["fd"])
            for server in state["daemon"]["servers"].values()
            for service in server["services"]
            for entry in service["socks"]
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return False


def _listens(fd: int) -> bool:
    """Return whether a descriptor is a listening socket.

    If it is, virtlockd ran in this process: only then does the process have this socket.

    :raises OSError: that cannot be told, as descriptors or memory have run out.
    """
    try:
        listener = socket.socket(fileno=os.dup(fd))
    except OSError as error:
        if error.errno in {errno.EBADF, errno.ENOTSOCK}:
            return False
        raise
    with listener:
        return listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
