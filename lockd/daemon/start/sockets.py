"""The listening sockets: handed over by systemd, or made here."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lockd.daemon.failure import Failure

_BACKLOG: Final = 4096
"""Clients that wait to be accepted: all guests of a host may start at once. The kernel caps it (somaxconn)."""


@dataclass
class Listeners:
    """The listening sockets, and the paths of those that this daemon made itself.

    A daemon that holds locks goes on without a socket that it cannot have.
    """

    lock: socket.socket | None
    admin: socket.socket | None
    made: list[Path]


def listen(path: Path) -> socket.socket:
    """Make a listening socket that only its owner can connect to.

    The pid file's lock is held, so a socket that is there already is a dead daemon's.

    :raises Failure: it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o077)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise Failure(f"{path}: cannot listen: {error.strerror or error}") from None
    finally:
        os.umask(old_mask)
    return listener
