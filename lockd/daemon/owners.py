"""Owners: who is registered, and what happens when an owner's process ends or drops its connection.

A lock is never given away while its owner can still write (Invariant 2).
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from time import time
from typing import Final

import trio

from lockd.daemon import events
from lockd.daemon.counters import Counters
from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.reactor import READABLE, Reactor
from lockd.daemon.session import Session
from lockd.daemon.tasks import Tasks
from lockd.linux.peers import open_peer_pidfd
from lockd.linux.processes import open_pidfd
from lockd.wire.lock import Owner

_LEAVING_SECONDS: Final = 0.1
"""A process that exits closes its connections some moments before it is dead. Only one that lives on for longer
than this is fenced."""

_TERM_SECONDS: Final = 1.6
"""From SIGTERM to SIGKILL, as virtlockd gives."""

_REMINDER_SECONDS: Final = 60

_logger = logging.getLogger(__name__)


class Owners:
    """All owners that are registered or hold locks.

    :param release: ends all holdings of a pid.
    :param holds_any: tells whether a pid has any.
    """

    def __init__(
        self,
        reactor: Reactor,
        tasks: Tasks,
        counters: Counters,
        release: Callable[[int], None],
        holds_any: Callable[[int], bool],
    ) -> None:
        self._reactor = reactor
        self._tasks = tasks
        self._counters = counters
        self._release = release
        self._holds_any = holds_any
        self._processes: dict[int, OwnerProcess] = {}
        # One object for all of them.
        self._at_end = self._ended

    def __iter__(self) -> Iterator[OwnerProcess]:
        return iter(self._processes.values())

    def get(self, pid: int) -> OwnerProcess | None:
        """Return the owner of this pid, if it is known."""
        return self._processes.get(pid)

    def register(self, session: Session, details: Owner) -> None:
        """Make ``details`` the owner that ``session`` acquires and releases for.

        :raises OSError: its process cannot be watched, as there are no descriptors left.
        """
        process = self._processes.get(details.pid)
        if process is not None and process.has_ended():
            # Its pid is another process's now.
            self._ended(process)
            process = None
        if process is None:
            process = OwnerProcess(details, _open_pidfd_for(session, details.pid))
            self._watch(process)
        process.details = details
        process.sessions += 1
        if session.owner is not None:
            self._leave(session.owner)
        session.owner = process

    def adopt(self, process: OwnerProcess) -> None:
        """Watch over an owner that another program has watched over before."""
        self._watch(process)

    def session_ended(self, session: Session) -> None:
        """Take note that a connection has ended; the owner's own one takes the owner's locks with it."""
        process = session.owner
        if process is None:
            return
        self._leave(process)
        # What a later process of a dead owner's pid holds is no business of the dead one's connection.
        if process.ended or session.peer_pid != process.pid or not self._holds_any(process.pid):
            return
        if process.pidfd is None or process.has_ended():
            self._ended(process)
        elif process.fencing_since is None:
            self.fence(process)

    def fence(self, process: OwnerProcess) -> None:
        """Kill the owner's process, which can still write; its locks end with it."""
        process.fencing_since = process.fencing_since or time()
        self._tasks.start(self._fence, process)

    async def _fence(self, process: OwnerProcess) -> None:
        with trio.move_on_after(_LEAVING_SECONDS):
            await process.wait_ended()
            return
        self._counters.fenced += 1
        events.fenced(process)
        for signal_number, seconds in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, _REMINDER_SECONDS)):
            process.send_signal(signal_number)
            with trio.move_on_after(seconds):
                await process.wait_ended()
                return
        while True:
            _logger.warning(
                "%s was killed and is not dead yet; its locks are kept until it is", process.describe()
            )
            with trio.move_on_after(_REMINDER_SECONDS):
                await process.wait_ended()
                return

    def _watch(self, process: OwnerProcess) -> None:
        process.at_end = self._at_end
        if process.pidfd is not None:
            try:
                self._reactor.watch(process.pidfd, READABLE, process)
            except BaseException:
                os.close(process.pidfd)
                raise
        self._processes[process.pid] = process

    def _ended(self, process: OwnerProcess) -> None:
        """The process is dead: release what it held."""
        process.set_ended()
        self._release(process.pid)
        self._discard(process)

    def _leave(self, process: OwnerProcess) -> None:
        process.sessions -= 1
        # One that is being killed is watched until it is dead, also when somebody has released its locks.
        if process.sessions == 0 and process.fencing_since is None and not self._holds_any(process.pid):
            self._discard(process)

    def _discard(self, process: OwnerProcess) -> None:
        if self._processes.get(process.pid) is process:
            del self._processes[process.pid]
            if process.pidfd is not None:
                self._reactor.forget(process.pidfd)
                os.close(process.pidfd)
                # The number is another descriptor's at once, maybe of another owner.
                process.pidfd = None


def _open_pidfd_for(session: Session, pid: int) -> int | None:
    if pid == session.peer_pid:
        return open_peer_pidfd(session.fd, pid, session.connected_at)
    return open_pidfd(pid)
