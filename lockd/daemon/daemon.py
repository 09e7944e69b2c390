"""The daemon: reactor, lock table, owners and servers, put together."""

import gc
import logging
from pathlib import Path
from typing import Final

import trio

from lockd.daemon import systemd
from lockd.daemon.counters import Counters
from lockd.daemon.locker import Locker
from lockd.daemon.log.log import Log
from lockd.daemon.mount_watch import MountWatch
from lockd.daemon.owners import Owners
from lockd.daemon.programs.admin_program import AdminProgram
from lockd.daemon.programs.lock_program import LockProgram
from lockd.daemon.programs.status_program import StatusProgram
from lockd.daemon.reactor import Reactor
from lockd.daemon.server import Limits, Server
from lockd.daemon.slow_calls import SlowCalls
from lockd.daemon.start.config import Config
from lockd.daemon.start.sockets import Listeners
from lockd.daemon.tasks import Tasks
from lockd.locks.mounts import MountTable
from lockd.locks.resource import State
from lockd.locks.table import LockTable
from lockd.wire import admin, lock, status

_HOUSEKEEPING_SECONDS: Final = 1

_OWNERS_NAMED: Final = 20
"""How many owners the warning of an end names: a line of the log has to stay readable."""

_logger = logging.getLogger(__name__)


class Daemon:
    """A running daemon.

    :ivar log: the log; the table shares its inodes, as a log file is not to be locked.
    :ivar timeout: seconds without clients and locks after which it ends, or None.
    :ivar pid_file: descriptor of the locked pid file; None where an upgrade has lost it.
    :ivar sockets_made: paths of the sockets that are to be removed at the end.
    """

    def __init__(
        self, config: Config, log: Log, timeout: int | None, pid_file: int | None, nursery: trio.Nursery
    ) -> None:
        self.log = log
        self.timeout = timeout
        self.pid_file = pid_file
        self.sockets_made: list[Path] = []
        self._stop = trio.Event()
        tasks = Tasks(nursery)
        self._idle_from = trio.current_time()
        self._next_client_ids: list[int] = []
        self._told_status = ""
        self.counters = Counters()
        self.mounts = MountTable()
        self.reactor = Reactor(before_serving=MountWatch(self.mounts).look)
        self.table = LockTable(log.inodes)
        # A client that locks the pid file must not end the daemon's own lock on it.
        if pid_file is not None:
            self.table.inodes.adopt(pid_file, "the daemon itself")
        self.slow_calls = SlowCalls()
        self.locker = Locker(
            self.table, self.mounts, self.slow_calls, tasks, lambda pid: self.owners.get(pid)
        )
        self.owners = Owners(self.reactor, tasks, self.counters, self.locker.release_all, self._holds_any)
        self.lock_server = Server(
            "virtlockd",
            self.reactor,
            {
                (lock.PROGRAM, lock.VERSION): LockProgram(
                    self.table, self.locker, self.owners, self.mounts, tasks, self.counters
                )
            },
            Limits(config.max_clients, config.max_clients),
            payload_kept=lock.ARGUMENTS_MAX,
            on_end=self.owners.session_ended,
        )
        status_program = StatusProgram(self)
        self.admin_server = Server(
            "admin",
            self.reactor,
            {
                (admin.PROGRAM, admin.VERSION): AdminProgram(self),
                (status.PROGRAM, status.VERSION): status_program,
            },
            Limits(config.admin_max_clients, config.admin_max_clients),
            payload_kept=admin.ARGUMENTS_MAX,
            on_end=lambda _session: None,
        )

    def _holds_any(self, pid: int) -> bool:
        # What it is only waiting for, or is giving back, it does not write to.
        return any(resource.state is State.HELD for resource in self.table.holdings(pid))

    @property
    def servers(self) -> list[Server]:
        """Both servers, in the order in which virt-admin lists them."""
        return [self.admin_server, self.lock_server]

    @property
    def idle_seconds(self) -> float:
        """For how long nobody has needed the daemon."""
        return max(0.0, trio.current_time() - self._idle_from)

    def was_idle(self, seconds: float) -> None:
        """Go on as a daemon that was not needed for that long when its program was replaced."""
        self._idle_from = trio.current_time() - seconds
        self._next_client_ids = [server.next_client_id for server in self.servers]

    def stop(self) -> None:
        """End the daemon; all locks end with it."""
        self._stop.set()

    async def serve(self, listeners: Listeners) -> None:
        """Serve until ``stop`` is called, a signal ends the daemon, or it has been idle for its timeout."""
        self.sockets_made = listeners.made
        if listeners.lock is not None:
            self.lock_server.listen(listeners.lock)
        if listeners.admin is not None:
            self.admin_server.listen(listeners.admin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reactor.run)
            nursery.start_soon(self._housekeeping)
            nursery.start_soon(systemd.feed_watchdog, self.reactor)
            # What is there now stays: no need to look at it in every collection.
            gc.freeze()
            gc.enable()
            systemd.notify("READY=1")
            await self._stop.wait()
            nursery.cancel_scope.cancel()
        systemd.notify("STOPPING=1")
        for server in self.servers:
            server.hang_up()
        if self.table:
            self._warn_of_lost_locks()

    def _warn_of_lost_locks(self) -> None:
        owners = sorted({pid for resource in self.table for pid in resource.holdings})
        processes = {pid: self.owners.get(pid) for pid in owners[:_OWNERS_NAMED]}
        names = [process.describe() if process else f"pid {pid}" for pid, process in processes.items()]
        if len(owners) > len(names):
            names.append(f"{len(owners) - len(names)} more")
        _logger.warning(
            "the daemon ends while %s held: nothing protects the disks any more of %s",
            "1 lock is" if len(self.table) == 1 else f"{len(self.table)} locks are",
            ", ".join(names),
        )

    async def _housekeeping(self) -> None:
        while True:
            await trio.sleep(_HOUSEKEEPING_SECONDS)
            for server in self.servers:
                server.update_accepting()
            self._tell_status()
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        now = trio.current_time()
        next_client_ids = [server.next_client_id for server in self.servers]
        came = next_client_ids != self._next_client_ids
        self._next_client_ids = next_client_ids
        if came or self.table or any(server.sessions for server in self.servers):
            # They may leave just before the next look: the idle time starts then at the earliest.
            self._idle_from = now + _HOUSEKEEPING_SECONDS
        elif self.timeout is not None and now - self._idle_from >= self.timeout:
            _logger.info("the daemon ends: it was idle for %d seconds", self.timeout)
            self.stop()

    def _tell_status(self) -> None:
        guests, locks = len(self.lock_server.sessions), len(self.table)
        status = f"STATUS={guests} guest{'s' * (guests != 1)}, {locks} lock{'s' * (locks != 1)}"
        if status != self._told_status:
            self._told_status = status
            systemd.notify(status)
