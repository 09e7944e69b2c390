"""The state file: what a daemon leaves to the program that replaces it in the same process.

It is virtlockd's own file, so that either daemon can take over from the other.
"""

import json
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from lockd.daemon.failure import Failure
from lockd.linux.processes import own_identity


def write(path: Path, state: dict[str, Any], size_max: int | None = None) -> None:
    """Write the state, whole or not at all, for this user's eyes only; and see that it is there.

    :param size_max: bytes that the next program can read at most; None for any number.
    :raises Failure: it is too large, or could not be written; then there is no file.
    """
    text = json.dumps(state, ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", "surrogateescape")
    if size_max is not None and len(data) > size_max:
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


def take(path: Path) -> dict[str, Any] | None:
    """Read the state that this very process left behind, and remove the file.

    A file that is another process's, another user's or a link is never used. POSIX locks and descriptors belong to
    a process, so a state is worth something only to the process that wrote it.

    :returns: None where there is no such state.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(fd)
        return None
    with open(fd, "rb") as file:
        data = file.read()
    try:
        state = json.loads(data.decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    if not isinstance(state, dict) or not _is_own(state):
        return None
    with suppress(OSError):
        path.unlink()
    return state


def _is_own(state: dict[str, Any]) -> bool:
    """Whether this process has written the state, and not an earlier one of the same pid.

    virtlockd's state only tells the pid. But who finds it has its sockets, too.
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
    except (OSError, LookupError, TypeError, AttributeError):
        return False


def _listens(fd: int) -> bool:
    """Whether a listening socket is open as ``fd``: only this process's own virtlockd can have left it."""
    try:
        listener = socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    with listener:
        return listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
