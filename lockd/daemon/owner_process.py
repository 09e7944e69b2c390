"""An owner: the process that writes to the locked disks.

It is identified by a pidfd. If its pid is used again for another process, that process is never killed and
never mistaken for the owner (Invariant 2).
"""

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import trio

from lockd.daemon.reactor import Watcher
from lockd.linux.pid_namespaces import PidNamespace
from lockd.linux.processes import has_ended
from lockd.wire.lock import Owner


class Place(NamedTuple):
    """A pid namespace other than the daemon's, and a pid there.

    :ivar namespace: the pid namespace.
    :ivar number: the pid there.
    """

    namespace: PidNamespace
    number: int


class OwnerProcess(Watcher):
    """An owner and its process.

    :param key: see the variable.
    :param details: what the client that registered the owner said about it.
    :param pid: see the variable.
    :param pidfd: a descriptor of the process, or None if the daemon cannot watch it. ``Owners`` closes it.
    :param place: see the variable.
    :ivar key: the number that holdings are stored by. It is the pid, or a negative number if the daemon does not
        know the pid: the pids of two containers may be equal, and belong to two owners.
    :ivar details: what the latest REGISTER call for this owner said about it. The pid there is that of ``place``, or
        one of the client's pid namespace if that is None.
    :ivar pid: the pid of the process in the daemon's pid namespace; None if that is not known.
    :ivar pidfd: the descriptor of the process; None if there was none, or if it is closed.
    :ivar place: another pid namespace that the process is in, and its pid there; None if none is known.
    :ivar was_dead: whether there was no process with this pid when the owner was registered. A process that has
        the pid now is another one.
    :ivar is_certain: False if the process may be another one that has got the owner's pid. Then it is not killed.
    :ivar ended: whether the daemon has handled the end of the process.
    :ivar at_end: callback for the end of the process; its argument is this owner.
    :ivar fencing_since: when fencing began, in seconds since the epoch; None if the owner is not being
        fenced.
    :ivar sessions: the number of sessions that are registered for this owner.
    """

    __slots__ = (
        "_end",
        "at_end",
        "details",
        "ended",
        "fencing_since",
        "is_certain",
        "key",
        "pid",
        "pidfd",
        "place",
        "sessions",
        "was_dead",
    )

    def __init__(
        self, key: int, details: Owner, pid: int | None, pidfd: int | None, place: Place | None = None
    ) -> None:
        self.key: Final = key
        self.details = details
        self.pid = pid
        self.pidfd = pidfd
        self.place = place
        self.was_dead = False
        self.is_certain = True
        self.ended = False
        self.at_end: Callable[[OwnerProcess], None] | None = None
        # Made on demand: few owners are ever waited for, and 4000 events would take 1 MB.
        self._end: trio.Event | None = None
        self.fencing_since: float | None = None
        self.sessions = 0

    def has_ended(self) -> bool:
        """Ask the kernel whether the process has ended; a zombie has. Without a pidfd, return ``ended``."""
        return self.ended if self.pidfd is None else has_ended(self.pidfd)

    def on_ready(self, ready: int) -> None:  # noqa: ARG002 - a pidfd is ready for one reason
        """Handle the end of the process: its pidfd is readable (pidfd_open(2)). See ``Watcher.on_ready``."""
        if self.at_end is not None:
            self.at_end(self)

    def set_ended(self) -> None:
        """Record that the process has ended, and wake the tasks in ``wait_ended``."""
        self.ended = True
        if self._end is not None:
            self._end.set()

    async def wait_ended(self) -> None:
        """Wait until ``set_ended`` is called."""
        if not self.ended:
            if self._end is None:
                self._end = trio.Event()
            await self._end.wait()

    def describe(self) -> str:
        """Return a description for error messages and the log: the domain's name, if any, and the pid."""
        elsewhere = f"pid {self.details.pid} of another pid namespace"
        which = elsewhere if self.pid is None else f"pid {self.pid}"
        return f'domain "{self.details.name}" ({which})' if self.details.name else which

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; no effect if there is no pidfd or the process has ended.

        :param number: the signal.
        :raises OSError: the signal cannot be sent (pidfd_send_signal(2)).
        """
        if self.pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)


def owner_name(key: int, owner: OwnerProcess | None) -> str:
    """Return the name of an owner in messages.

    :param key: the key of the owner, or the pid of a client; not positive if the pid is not known.
    :param owner: the owner, or None if only the key or pid is known.
    :returns: the name of the domain and the pid, or only the pid.
    """
    if owner is not None:
        return owner.describe()
    return f"pid {key}" if key > 0 else "a process of another pid namespace"
