"""The registered owners, and what happens when an owner ends or drops its connection.

A lock is never given away while its owner can still write (Invariant 2). If an owner ends, its locks are
released. If it drops its connection while it lives and holds locks, it is fenced: it is killed, and its locks
are released when it is dead.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from time import time
from typing import Final

import trio

from lockd.daemon import events
from lockd.daemon.counters import Counters
from lockd.daemon.identification import Subject, identify
from lockd.daemon.owner_process import OwnerProcess, Place
from lockd.daemon.reactor import READABLE, Reactor
from lockd.daemon.session import Session
from lockd.daemon.tasks import Tasks
from lockd.linux.pid_namespaces import UNKNOWN
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
    :param release: ends all holdings of the owner with a key.
    :param holds_any: returns whether the owner with a key holds a lock.
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
        self._by_place: dict[Place, OwnerProcess] = {}
        self._last_key = 0
        # Each access to a method makes a new object. Keep one for all owners.
        self._at_end = self._release_ended

    def __iter__(self) -> Iterator[OwnerProcess]:
        return iter(self._processes.values())

    def get(self, key: int) -> OwnerProcess | None:
        """Return an owner.

        :param key: its key; see ``OwnerProcess``.
        :returns: the owner, or None if there is none.
        """
        return self._processes.get(key)

    def number(self, key: int) -> int:
        """Return the pid of an owner as it knows it itself. virtlockd stores holdings by it.

        :param key: its key.
        :returns: the pid in its own pid namespace, as far as that is known.
        """
        process = self._processes.get(key)
        return max(key, 0) if process is None else process.details.pid

    def new_key(self) -> int:
        """Return a key for an owner whose pid on this host is not known."""
        self._last_key -= 1
        return self._last_key

    def keep_keys(self, keys: Iterable[int]) -> None:
        """Give no new owner a key that holdings are stored by, though their owner may not be known.

        :param keys: the keys of all holdings.
        """
        self._last_key = min(self._last_key, min(keys, default=0))

    def may_live(self, key: int) -> bool:
        """Return whether an owner may be alive, as far as this host can know.

        The kernel is asked, and not the clock, which may have been set since. An owner that the daemon cannot see
        may be alive as long as a client is registered for it. If not even its pid namespace is known, it may be alive
        as long as a process of this host has its number.

        :param key: its key.
        :returns: False if it is dead, or if nothing is known of it.
        """
        process = self._processes.get(key)
        if process is None:
            return _is_used(key)
        if process.pidfd is not None:
            return not process.has_ended()
        if process.was_dead:
            return False
        if process.pid is not None:
            return _is_used(process.pid)
        # Of an owner whose pid namespace is not known, the number may be a pid of this host.
        may_be_here = process.place is not None and process.place.namespace == UNKNOWN
        return process.sessions > 0 or (may_be_here and _is_used(process.details.pid))

    def register(self, session: Session, details: Owner) -> None:
        """Register the owner that a session acquires and releases for, in place of the one before, if any.

        :param session: the session.
        :param details: what the client says about the owner.
        :raises OSError: the owner cannot be watched, as descriptors or memory have run out, or as the system does
            not permit it. The session keeps the owner that it had.
        :raises Unidentified: it cannot be known which process the client means. Likewise.
        """
        process = self._owner_of(identify(session, details.pid), details)
        # Another client may know it by another pid.
        place = process.place
        process.details = details if place is None else replace(details, pid=place.number)
        self.attach(session, process, details.pid)

    def attach(self, session: Session, process: OwnerProcess, pid: int) -> None:
        """Have a session acquire and release for an owner.

        :param session: the session.
        :param process: the owner.
        :param pid: its pid as the client has registered it.
        """
        process.sessions += 1
        if session.owner is not None:
            self._remove_session(session.owner)
        session.owner = process
        session.registered_pid = pid

    def _owner_of(self, subject: Subject, details: Owner) -> OwnerProcess:
        """Return the owner that is a process. It takes the pidfd of the subject, or closes it.

        :raises OSError: the process cannot be watched.
        """
        if subject.is_ended_peer:
            return ended_owner(details)
        try:
            known = self._find_living(subject)
        except BaseException:
            subject.close()
            raise
        if known is None:
            return self._add(subject, details)
        self._complete(known, subject)
        return known

    def _find_living(self, subject: Subject) -> OwnerProcess | None:
        """Find the owner that is a process. If the one that is found has ended, its locks end here, and it is none."""
        known = self._find(subject)
        if known is not None and _is_another(known, subject):
            self._release_ended(known)
            return None
        return known

    def _add(self, subject: Subject, details: Owner) -> OwnerProcess:
        key = subject.pid if subject.pid is not None else self.new_key()
        process = OwnerProcess(key, details, subject.pid, subject.pidfd, subject.place)
        process.was_dead = subject.is_dead
        process.is_certain = subject.is_certain
        self._watch(process)
        return process

    def _complete(self, known: OwnerProcess, subject: Subject) -> None:
        """Add what a client tells to what is known of an owner."""
        if known.pidfd is not None:
            subject.close()
        elif subject.pidfd is not None:
            # The process was not seen before. It is another one perhaps, but then the first one is dead: it had
            # the same pid.
            known.pidfd = subject.pidfd
            self._watch(known)
            known.pid = subject.pid
            known.is_certain = False
        else:
            known.was_dead = known.was_dead or subject.is_dead
        if known.place is None and subject.place is not None:
            known.place = subject.place
            self._by_place[subject.place] = known

    def _find(self, subject: Subject) -> OwnerProcess | None:
        known = None if subject.pid is None else self._processes.get(subject.pid)
        if known is None and subject.place is not None:
            known = self._by_place.get(subject.place)
        if known is None and subject.place is None and subject.is_dead and subject.pid is not None:
            known = self._by_place.get(Place(UNKNOWN, subject.pid))
        return known

    def release_dead(self, process: OwnerProcess) -> None:
        """Release all locks of an owner that is known to be dead, and forget it.

        :param process: the owner.
        """
        self._release_ended(process)

    def adopt(self, process: OwnerProcess) -> None:
        """Watch an owner of the program before this one, after a live upgrade.

        :param process: the owner. Its pidfd is closed when the owner is forgotten, or if this fails.
        :raises OSError: the owner cannot be watched, as descriptors or memory have run out.
        """
        self._watch(process)

    def session_ended(self, session: Session) -> None:
        """Handle the end of a connection.

        If the client has hung up, and it is the connection of an owner itself, and that owner holds locks, they
        end too: at once if the owner has ended, otherwise after it is fenced. The end of a connection that
        another process made for the owner has no such effect.

        :param session: the session whose connection has ended.
        """
        process = session.owner
        if process is None:
            return
        self._remove_session(process)
        if session.abandoned:
            return
        # If the owner was dead before, its pid may belong to another owner now, whose locks must stay.
        if process.ended or session.peer_pid != process.pid or not self._holds_any(process.key):
            return
        if process.has_ended():
            self._release_ended(process)
        elif process.pidfd is None or not process.is_certain:
            # What cannot be seen is not known to be dead, and what may be another process is not killed.
            _logger.warning(
                "%s may have dropped its connection, or be another process: it is not killed, and its locks are kept "
                "until it ends",
                process.describe(),
            )
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
        pidfd = process.pidfd
        if pidfd is not None:
            try:
                self._reactor.watch(pidfd, READABLE, process)
            except BaseException:
                process.pidfd = None
                os.close(pidfd)
                raise
        self._processes[process.key] = process
        self._last_key = min(self._last_key, process.key)
        if process.place is not None:
            self._by_place[process.place] = process

    def _release_ended(self, process: OwnerProcess) -> None:
        """Release all locks of an owner that has ended, and forget it."""
        process.set_ended()
        self._release(process.key)
        self._discard(process)

    def _remove_session(self, process: OwnerProcess) -> None:
        """Count one session less for an owner, and forget it if it has no session and no lock left."""
        process.sessions -= 1
        self._discard_unless_needed(process)

    def discard_unneeded(self) -> None:
        """Forget the owners that no client is registered for and that hold no lock, after a live upgrade."""
        for process in list(self):
            self._discard_unless_needed(process)

    def _discard_unless_needed(self, process: OwnerProcess) -> None:
        # An owner that is being fenced is watched until it is dead, even if its locks have been released.
        if process.sessions == 0 and process.fencing_since is None and not self._holds_any(process.key):
            self._discard(process)

    def _discard(self, process: OwnerProcess) -> None:
        if process.place is not None and self._by_place.get(process.place) is process:
            del self._by_place[process.place]
        if self._processes.get(process.key) is process:
            del self._processes[process.key]
            if process.pidfd is not None:
                self._reactor.forget(process.pidfd)
                os.close(process.pidfd)
                # The kernel may reuse the number at once, even for the pidfd of another owner.
                process.pidfd = None


def ended_owner(details: Owner) -> OwnerProcess:
    """Return an owner whose process has ended. It is not stored: its pid may be that of another owner.

    :param details: what a client said about the owner.
    :returns: the owner, for which no call is carried out.
    """
    process = OwnerProcess(details.pid, details, details.pid, None)
    process.was_dead = process.ended = True
    return process


def _is_used(pid: int) -> bool:
    """Return whether a process of this host may have a pid."""
    try:
        pidfd = open_pidfd(pid)
    except OSError:
        return True
    if pidfd is None:
        return False
    os.close(pidfd)
    return True


def _is_another(known: OwnerProcess, subject: Subject) -> bool:
    """Return whether a registered owner is known to be dead, so that a process with its pid is another one."""
    if known.pidfd is not None:
        return known.has_ended()
    return known.was_dead and subject.pidfd is not None


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
