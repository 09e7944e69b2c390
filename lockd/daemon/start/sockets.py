"""The listening sockets of the daemon: passed by systemd, or created by the daemon itself."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lockd.daemon.failure import Failure

_BACKLOG: Final = 4096
"""How many clients may wait to be accepted: all guests of a host may start at the same time. The kernel
limits this number to net.core.somaxconn (listen(2))."""


@dataclass
class Listeners:
    """The listening sockets of a daemon.

    A socket may be missing after a live upgrade: a daemon that holds locks continues without a socket that it
    cannot create again.

    :ivar lock: the socket for lock clients; None if it is missing.
    :ivar admin: the socket for administration; None if it is missing, or if systemd did not pass one.
    :ivar made: the paths of the sockets that the daemon created itself. It removes them when it ends.
    """

    lock: socket.socket | None
    admin: socket.socket | None
    made: list[Path]


def listen(path: Path) -> socket.socket:
    """Create a listening socket that only the user of this process can connect to.

    A socket file that exists already is replaced. It belongs to a daemon that has ended, as the caller has
    locked the pid file.

    :param path: the path of the socket.
    :returns: the socket, to be closed by the caller.
    :raises Failure: the socket cannot be created.
    """
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _listen_at(path, listener)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise Failure(f"{path}: cannot listen: {error.strerror or error}") from None
    return listener


def _listen_at(path: Path, listener: socket.socket) -> None:
    """Bind a socket to a path, and listen. If that fails, nothing is left at the path."""
    path.unlink(missing_ok=True)
    old_mask = os.umask(0o077)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old_mask)
    try:
        listener.listen(_BACKLOG)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
