"""systemd: sockets that it hands over, and what it is told of the daemon.

Without systemd all of this does nothing; its library is imported only where it is needed, as that takes time.
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
    """Return the listening sockets that were handed over, by their names.

    Where names are missing, the address tells which is which.
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
    """Tell systemd of the daemon's state (sd_notify(3))."""
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
    """Return the one socket to tell systemd by.

    libsystemd opens one each time. When there are no descriptors left, the watchdog would go hungry then, and
    systemd would end the daemon, and all locks with it.
    """
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def notify_reloading() -> None:
    """Tell systemd that the daemon is being replaced; READY=1 ends that (sd_notify(3))."""
    notify("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")


def stop_watchdog() -> None:
    """Have systemd expect no food for its watchdog: virtlockd does not know that it should feed one.

    Otherwise systemd would kill it, and all locks would be lost.
    """
    if _watchdog_seconds() is not None:
        notify("WATCHDOG_USEC=0")


def start_watchdog() -> None:
    """Have systemd expect food again. The environment tells how often, as it did the first program."""
    if _watchdog_seconds() is not None:
        notify(f"WATCHDOG_USEC={os.environ['WATCHDOG_USEC']}")


async def feed_watchdog(reactor: Reactor) -> None:
    """Feed systemd's watchdog, where it is on, from within the reactor: if that is stuck, it goes hungry."""
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
        # Half the time is what sd_watchdog_enabled(3) recommends.
        await trio.sleep(seconds / 2)


def _watchdog_seconds() -> float | None:
    """Return how often the watchdog has to be fed at least, or None where there is none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000
