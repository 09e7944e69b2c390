"""systemd: socket activation, notifications and the watchdog.

If systemd has not started the daemon, these functions do nothing. The systemd library is imported only when
it is needed, because the import takes time.
"""

import logging
import os
import socket
from functools import cache
from pathlib import Path
from time import monotonic_ns
from typing import Final

import trio

from lockd.daemon.reactor import READABLE, FunctionWatcher, Reactor
from lockd.libvirt.addresses import Addresses

LOCK_SOCKET: Final = "virtlockd.socket"
ADMIN_SOCKET: Final = "virtlockd-admin.socket"
"""The names that the socket units give their descriptors (LISTEN_FDNAMES in sd_listen_fds(3))."""

_logger = logging.getLogger(__name__)


def activation_sockets(addresses: Addresses) -> dict[str, socket.socket]:
    """Return the listening sockets that systemd passed to this process.

    :param addresses: the addresses of the daemon. They identify a socket that has none of the expected names.
    :returns: the sockets, by ``LOCK_SOCKET`` and ``ADMIN_SOCKET``; empty if systemd passed none. The caller
        closes them.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    import systemd.daemon

    sockets = {}
    for fd, name in systemd.daemon.listen_fds_with_names().items():
        listener = socket.socket(fileno=fd)
        is_admin = name == ADMIN_SOCKET or (
            name != LOCK_SOCKET and Path(str(listener.getsockname())) == addresses.admin_socket
        )
        sockets[ADMIN_SOCKET if is_admin else LOCK_SOCKET] = listener
    return sockets


def notify(*lines: str) -> None:
    """Send the daemon's state to systemd (sd_notify(3)). If that fails, it is logged.

    :param lines: the assignments to send, for example ``READY=1``.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    try:
        _notify_socket().sendto("\n".join(lines).encode(), address)
    except OSError as error:
        _logger.warning("systemd cannot be told of %s: %s", lines[0], error)


@cache
def _notify_socket() -> socket.socket:
    """Return the socket for notifications. It is opened once and never closed.

    libsystemd opens a socket for each notification. If the daemon had run out of descriptors, it could then
    not notify the watchdog, and systemd would kill it. All locks would be lost.
    """
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def notify_reloading() -> None:
    """Tell systemd that a live upgrade begins. ``READY=1`` means that it is done (sd_notify(3))."""
    notify("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")


def stop_watchdog() -> None:
    """Disable the watchdog before virtlockd replaces the program: virtlockd does not notify a watchdog.

    Otherwise systemd would kill it, and all locks would be lost.
    """
    if _watchdog_seconds() is not None:
        notify("WATCHDOG_USEC=0")


def start_watchdog() -> None:
    """Re-arm the watchdog, with the interval that is in the environment (sd_watchdog_enabled(3))."""
    if _watchdog_seconds() is not None:
        notify(f"WATCHDOG_USEC={os.environ['WATCHDOG_USEC']}")


async def feed_watchdog(reactor: Reactor) -> None:
    """Notify systemd's watchdog until cancelled; return at once if there is none.

    The notifications are sent from within the reactor. If the reactor is stuck, they stop, and systemd
    restarts the daemon.

    :param reactor: the reactor.
    """
    seconds = _watchdog_seconds()
    if seconds is None:
        return
    bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def feed(_ready: int) -> None:
        os.eventfd_read(bell)
        notify("WATCHDOG=1")

    reactor.watch(bell, READABLE, FunctionWatcher(feed))
    start_watchdog()
    while True:
        os.eventfd_write(bell, 1)
        # sd_watchdog_enabled(3) recommends a notification every half of the interval.
        await trio.sleep(seconds / 2)


def _watchdog_seconds() -> float | None:
    """Return the watchdog's interval in seconds, or None if there is no watchdog for this process."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000
