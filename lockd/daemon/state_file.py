"""The state file: what a daemon leaves to the program that replaces it in the same process.

It is virtlockd's own file, so that either daemon can take over from the other.
"""

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from lockd.daemon.failure import Failure


def write(path: Path, state: dict[str, Any]) -> None:
    """Write the state, whole or not at all, for this user's eyes only; and see that it is there.

    :raises Failure: it could not be written; then there is no file.
    """
    text = json.dumps(state, ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", "surrogateescape")
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
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return None
        data = file.read()
    try:
        state = json.loads(data.decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    if not isinstance(state, dict) or state.get("magic") != str(os.getpid()):
        return None
    with suppress(OSError):
        path.unlink()
    return state
