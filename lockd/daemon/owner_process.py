"""An owner's process: the one that writes to the locked disks.

It is known by a pidfd, so a pid that is re-used is never killed, and never mistaken for the owner.
"""

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from lockd.daemon.reactor import Watcher
from lockd.linux.processes import has_ended
from lockd.wire.lock import Owner


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
        return self.ended if self.pidfd is None else has_ended(self.pidfd)

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
