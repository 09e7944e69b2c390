"""systemd: socket activation, notifications and the watchdog.

If systemd has not started the daemon, these functions do nothing. The systemd library is imported only when
it is needed, because the import takes time.
"""

import errno
import logging
import os
import socket
from functools import cache
from pathlib import Path
from time import monotonic_ns
from typing import Final

import trio

from lockd.daemon.failure import Failure
from lockd.daemon.rate_limit import Trouble
from lockd.daemon.reactor import READABLE, FunctionWatcher, Reactor
from lockd.libvirt.addresses import Addresses

LOCK_SOCKET: Final = "virtlockd.socket"
ADMIN_SOCKET: Final = "virtlockd-admin.socket"
"""The names that the socket units give their descriptors (LISTEN_FDNAMES in sd_listen_fds(3))."""

_FULL: Final = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM))
"""The errors of a message that may be taken later."""

_WATCHDOG_RETRY: Final = 0.05
"""After which part of its interval the watchdog is notified again if systemd has not taken the notification."""

_logger = logging.getLogger(__name__)
_deaf = Trouble(_logger)
_waiting: Final[list[tuple[str, ...]]] = []


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


def notify(*lines: str) -> bool:
    """Send the daemon's state to systemd (sd_notify(3)), if systemd takes it now.

    This never waits: the queue of the socket is short (net.unix.max_dgram_qlen, 10), and is full while
    systemd is busy. All clients would wait for systemd (Invariant 3).

    :param lines: the assignments to send, for example ``WATCHDOG=1``.
    :returns: False if the queue is full. Any other error is logged.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return True
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    try:
        _notify_socket().sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, address)
    except OSError as error:
        if error.errno in _FULL:
            _deaf.seen("systemd does not read its notifications; the daemon goes on, and tries again")
            return False
        _logger.warning("systemd cannot be told of %s: %s", lines[0], error)
    return True


def notify_surely(*lines: str) -> None:
    """Send the daemon's state to systemd, now or later: ``notify_waiting`` tries again.

    Such messages arrive in their order. They are not sent later by the next program after a live upgrade,
    which begins with messages of its own.

    :param lines: the assignments to send, for example ``READY=1``.
    """
    _waiting.append(lines)
    notify_waiting()


def notify_waiting() -> bool:
    """Send the messages that systemd has not taken yet.

    :returns: whether it has taken all of them.
    """
    while _waiting and notify(*_waiting[0]):
        del _waiting[0]
    return not _waiting


@cache
def _notify_socket() -> socket.socket:
    """Return the socket for notifications. It is opened once and never closed.

    libsystemd opens a socket for each notification. If the daemon had run out of descriptors, it could then
    not notify the watchdog, and systemd would kill it. All locks would be lost.
    """
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def notify_reloading() -> None:
    """Tell systemd that a live upgrade begins. ``READY=1`` means that it is done (sd_notify(3))."""
    notify_surely("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")


def stop_watchdog() -> None:
    """Disable the watchdog before virtlockd replaces the program: virtlockd does not notify a watchdog.

    Otherwise systemd would kill it, and all locks would be lost.

    :raises Failure: systemd does not take the notification now.
    """
    if _watchdog_seconds() is not None and not (notify_waiting() and notify("WATCHDOG_USEC=0")):
        raise Failure("virtlockd does not feed a watchdog, and systemd cannot be told now; try again later")


def start_watchdog() -> None:
    """Re-arm the watchdog, with the interval that is in the environment (sd_watchdog_enabled(3))."""
    if _watchdog_seconds() is not None:
        notify_surely(f"WATCHDOG_USEC={os.environ['WATCHDOG_USEC']}")


async def feed_watchdog(reactor: Reactor) -> None:
    """Notify systemd's watchdog until cancelled; return at once if there is none.

    The notifications are sent from within the reactor. If the reactor is stuck, they stop, and systemd
    restarts the daemon.

    :param reactor: the reactor.
    """
    seconds = _watchdog_seconds()
    if seconds is None:
        return
    start_watchdog()
    bell = _Bell()
    reactor.watch(bell.fd, READABLE, FunctionWatcher(bell.feed))
    try:
        while True:
            bell.ring()
            await trio.sleep(seconds * _WATCHDOG_RETRY)
            if bell.has_fed:
                # sd_watchdog_enabled(3) recommends a notification every half of the interval.
                await trio.sleep(seconds * (0.5 - _WATCHDOG_RETRY))
    finally:
        reactor.forget(bell.fd)
        os.close(bell.fd)


class _Bell:
    """An eventfd by which a task has the reactor notify the watchdog.

    :ivar fd: the eventfd.
    :ivar has_fed: whether systemd has taken the notification since it was rung.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.has_fed = False

    def ring(self) -> None:
        self.has_fed = False
        os.eventfd_write(self.fd, 1)

    def feed(self, _ready: int) -> None:
        os.eventfd_read(self.fd)
        self.has_fed = notify("WATCHDOG=1")


def _watchdog_seconds() -> float | None:
    """Return the watchdog's interval in seconds, or None if there is no watchdog for this process."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000
