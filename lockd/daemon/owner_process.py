"""An owner's process: the one that writes to the locked disks.

It is known by a pidfd, so a pid that is re-used is never killed, and never mistaken for the owner.
"""

import errno
import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from lockd.daemon.reactor import Watcher
from lockd.wire.lock import Owner

_SO_PEERPIDFD: Final = 77  # <asm-generic/socket.h>, Linux 6.5; Python has no name for it

_NOTHING_LEFT: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))


class OwnerProcess(Watcher):
    """An owner and its process.

    :ivar pid: the process's number, by which releases are matched.
    :ivar details: what the owner's latest REGISTER said of it.
    :ivar pidfd: the process; None once it is watched no more, and where none of this pid can be seen from here.
    :ivar ended: whether the process has ended; a zombie has.
    :ivar at_end: called with it when ``on_ready`` tells of its end.
    :ivar fencing_since: when it dropped its connection while alive, in seconds since the epoch.
    """

    __slots__ = ("_end", "at_end", "details", "ended", "fencing_since", "pid", "pidfd", "sessions")

    def __init__(self, details: Owner, pidfd: int | None) -> None:
        self.pid: Final = details.pid
        self.details = details
        self.pidfd = pidfd
        self.ended = False
        self.at_end: Callable[[OwnerProcess], None] | None = None
        # Most owners are never waited for: an event for each would be 1 MB with 4000 guests.
        self._end: trio.Event | None = None
        self.fencing_since: float | None = None
        self.sessions = 0

    def has_ended(self) -> bool:
        """Whether the process is known to have ended, by asking the kernel now."""
        return self.ended if self.pidfd is None else _has_ended(self.pidfd)

    def on_ready(self, ready: int) -> None:  # noqa: ARG002 - a pidfd is ready for one reason
        """The pidfd is readable: the process has ended (pidfd_open(2))."""
        if self.at_end is not None:
            self.at_end(self)

    def set_ended(self) -> None:
        """Take note that the process has ended."""
        self.ended = True
        if self._end is not None:
            self._end.set()

    async def wait_ended(self) -> None:
        """Wait until the process has ended."""
        if not self.ended:
            if self._end is None:
                self._end = trio.Event()
            await self._end.wait()

    def describe(self) -> str:
        """Return the words for an error message or the log."""
        return f'domain "{self.details.name}" (pid {self.pid})' if self.details.name else f"pid {self.pid}"

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; none is sent where there is none any more."""
        if self.pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)


def open_peer_pidfd(connection: int, pid: int, connected_at: float) -> int | None:
    """Return a descriptor of the process ``pid`` that is at the other end of a connection.

    :param connection: its descriptor.
    :param connected_at: seconds since the epoch; a process that started later is another one.
    :returns: None where it has ended, or cannot be seen from here.
    :raises OSError: there are no descriptors left.
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=connection)
    try:
        return peer.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        pidfd = open_pidfd(pid)
    finally:
        peer.detach()
    if pidfd is not None and _started(pid) > connected_at + 1:
        os.close(pidfd)
        return None
    return pidfd


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor of the process, or None where there is none that can be seen from here.

    :raises OSError: there are no descriptors left. The process may well be there, and write.
    """
    try:
        return os.pidfd_open(pid)
    except OverflowError:
        return None
    except OSError as error:
        if error.errno in _NOTHING_LEFT:
            raise
        return None


def was_running(pid: int, moment: float) -> bool:
    """Whether a process of this pid lives that was there at that moment already, in seconds since the epoch."""
    try:
        pidfd = open_pidfd(pid)
    except OSError:
        pidfd = None
    if pidfd is None:
        return os.path.exists(f"/proc/{pid}")
    try:
        return not _has_ended(pidfd) and _started(pid) <= moment + 1
    finally:
        os.close(pidfd)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _started(pid: int) -> float:
    """Return when a process started, in seconds since the epoch; long ago where that cannot be known."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        booted = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines()
            if line.startswith("btime ")
        )
    except (OSError, StopIteration):
        return 0.0
    # Field 22, counted behind the name, which may hold anything (proc(5)).
    return booted + int(status.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
