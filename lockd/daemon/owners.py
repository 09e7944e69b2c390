"""The registered owners, and what happens when an owner ends or drops its connection.

A lock is never given away while its owner can still write (Invariant 2). If an owner ends, its locks are
released. If it drops its connection while it lives and holds locks, it is fenced: it is killed, and its locks
are released when it is dead.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
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
"""How many seconds an owner may live on after it has dropped its connection, before it gets a signal. A
process that exits closes its connections shortly before it is dead."""

_TERM_SECONDS: Final = 1.6
"""Seconds from SIGTERM to SIGKILL, as in virtlockd."""

_REMINDER_SECONDS: Final = 60
"""Seconds between two attempts to kill an owner that is not dead yet."""

_logger = logging.getLogger(__name__)


class Owners:
    """All owners that are registered or hold locks.

    :param reactor: watches the pidfds of the owners.
    :param tasks: runs the fencing of owners.
    :param counters: counts the fenced owners.
    :param release: ends all holdings of the owner with a pid.
    :param holds_any: returns whether the owner with a pid holds a lock.
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
        # Each access to a method makes a new object. Keep one for all owners.
        self._at_end = self._release_ended

    def __iter__(self) -> Iterator[OwnerProcess]:
        return iter(self._processes.values())

    def get(self, pid: int) -> OwnerProcess | None:
        """Return the owner with a pid.

        :param pid: the pid.
        :returns: the owner, or None if there is none.
        """
        return self._processes.get(pid)

    def register(self, session: Session, details: Owner) -> None:
        """Register the owner that a session acquires and releases for, in place of the one before, if any.

        :param session: the session.
        :param details: what the client says about the owner.
        :raises OSError: the owner cannot be watched, as descriptors or memory have run out. The session keeps
            the owner that it had.
        """
        process = self._processes.get(details.pid)
        if process is not None and process.has_ended():
            # The registered owner has ended. The pid may belong to another process now.
            self._release_ended(process)
            process = None
        if process is None:
            process = OwnerProcess(details, _open_pidfd_for(session, details.pid))
            self._watch(process)
        process.details = details
        process.sessions += 1
        if session.owner is not None:
            self._remove_session(session.owner)
        session.owner = process

    def adopt(self, process: OwnerProcess) -> None:
        """Watch an owner of the program before this one, after a live upgrade.

        :param process: the owner. Its pidfd is closed when the owner is forgotten, or if this fails.
        :raises OSError: the owner cannot be watched, as descriptors or memory have run out.
        """
        self._watch(process)

    def session_ended(self, session: Session) -> None:
        """Handle the end of a connection.

        If the client has hung up, and it is the connection of an owner itself, and that owner holds locks, they end too: at once if the
        owner has ended, otherwise after it is fenced. The end of a connection that another process made for
        the owner has no such effect.

        :param session: the session whose connection has ended.
        """
        process = session.owner
        if process is None:
            return
        self._remove_session(process)
        if session.abandoned:
            return
        # If the owner was dead before, its pid may belong to another owner now, whose locks must stay.
        if process.ended or session.peer_pid != process.pid or not self._holds_any(process.pid):
            return
        if process.pidfd is None or process.has_ended():
            self._release_ended(process)
        elif process.fencing_since is None:
            self.fence(process)

    def fence(self, process: OwnerProcess) -> None:
        """Begin to kill an owner that dropped its connection while it can still write. This returns at once.

        Its locks are released when it is dead.

        :param process: the owner.
        """
        process.fencing_since = process.fencing_since or time()
        self._tasks.start(self._fence, process)

    async def _fence(self, process: OwnerProcess) -> None:
        """Send SIGTERM and then SIGKILL to an owner that does not end by itself; wait until it is dead."""
        with trio.move_on_after(_LEAVING_SECONDS):
            await process.wait_ended()
            return
        self._counters.fenced += 1
        events.fenced(process)
        with suppress(OSError):  # SIGKILL fails for the same reason, which is then logged
            process.send_signal(signal.SIGTERM)
        with trio.move_on_after(_TERM_SECONDS):
            await process.wait_ended()
            return
        while True:
            is_sent = _kill(process)
            with trio.move_on_after(_REMINDER_SECONDS):
                await process.wait_ended()
                return
            if is_sent:
                _logger.warning(
                    "%s was killed and is not dead yet; its locks are kept until it is", process.describe()
                )

    def _watch(self, process: OwnerProcess) -> None:
        process.at_end = self._at_end
        if process.pidfd is not None:
            try:
                self._reactor.watch(process.pidfd, READABLE, process)
            except BaseException:
                os.close(process.pidfd)
                raise
        self._processes[process.pid] = process

    def _release_ended(self, process: OwnerProcess) -> None:
        """Release all locks of an owner that has ended, and forget it."""
        process.set_ended()
        self._release(process.pid)
        self._discard(process)

    def _remove_session(self, process: OwnerProcess) -> None:
        """Count one session less for an owner, and forget it if it has no session and no lock left."""
        process.sessions -= 1
        # An owner that is being fenced is watched until it is dead, even if its locks have been released.
        if process.sessions == 0 and process.fencing_since is None and not self._holds_any(process.pid):
            self._discard(process)

    def _discard(self, process: OwnerProcess) -> None:
        if self._processes.get(process.pid) is process:
            del self._processes[process.pid]
            if process.pidfd is not None:
                self._reactor.forget(process.pidfd)
                os.close(process.pidfd)
                # The kernel may reuse the number at once, even for the pidfd of another owner.
                process.pidfd = None


def _kill(process: OwnerProcess) -> bool:
    """Send SIGKILL to an owner. Return whether that is possible; if it is not, log why."""
    try:
        process.send_signal(signal.SIGKILL)
    except OSError as error:
        # The process belongs to another user, for example, or a filter of system calls forbids it. It may
        # still write, so its locks are kept (Invariant 2).
        _logger.error(
            "%s cannot be killed: %s; its locks are kept until it has ended: end it yourself",
            process.describe(),
            os.strerror(error.errno or 0),
        )
        return False
    return True


def _open_pidfd_for(session: Session, pid: int) -> int | None:
    if pid == session.peer_pid:
        return open_peer_pidfd(session.fd, pid, session.connected_at)
    return open_pidfd(pid)
