"""Adoption of the listening sockets and the pid file, before the ``Daemon`` object exists."""

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from lockd.daemon.failure import Failure
from lockd.daemon.server import ADMIN_SERVER, LOCK_SERVER
from lockd.daemon.start import pidfile
from lockd.daemon.start.sockets import Listeners, listen
from lockd.daemon.upgrade.salvage import part
from lockd.libvirt.addresses import Addresses

_logger = logging.getLogger(__name__)


def adopt_listeners(state: dict[str, Any], addresses: Addresses) -> Listeners:
    """Take over the listening sockets of a state. A socket that is lost is created again if possible.

    :param state: the state.
    :param addresses: the paths for sockets that are created again.
    :returns: the sockets, to be closed by the caller.
    """
    made: list[Path] = []
    return Listeners(
        _adopt_listener(state, LOCK_SERVER, addresses.socket, made),
        _adopt_listener(state, ADMIN_SERVER, addresses.admin_socket, made),
        made,
    )


def _adopt_listener(state: dict[str, Any], server: str, path: Path, made: list[Path]) -> socket.socket | None:
    with part(f"the listening socket of {server}"):
        (service,) = state["daemon"]["servers"][server]["services"] or [{"socks": []}]
        if not service["socks"] and server == ADMIN_SERVER:
            return None  # systemd did not pass an admin socket
        (entry,) = service["socks"]
        os.set_inheritable(entry["fd"], False)
        listener = socket.socket(fileno=entry["fd"])
        if entry["unlinkUNIX"]:
            made.append(Path(listener.getsockname()))
        return listener
    try:
        listener = listen(path)
    except Failure as failure:
        _logger.error("the %s server cannot accept new clients: %s", server, failure)
        return None
    made.append(path)
    return listener


def adopt_pid_file(state: dict[str, Any], path: Path) -> int | None:
    """Take over the locked pid file of a state. If it is not in the state, lock it again.

    :param state: the state.
    :param path: the path of the pid file.
    :returns: the descriptor of the file, which has to stay open; None if the file cannot be locked again.
    """
    with suppress(OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError):
        fd: int = state["lockd"]["pid_file"]
        os.set_inheritable(fd, False)
        return fd
    try:
        return pidfile.acquire(path)
    except Failure as failure:
        _logger.error("the daemon goes on without its pid file: %s", failure)
        return None
