"""The daemon: it puts the reactor, the lock table, the engine, the owners and the servers together."""

import gc
import logging
import os
from pathlib import Path
from typing import Final

import trio

from lockd.daemon import systemd
from lockd.daemon.counters import Counters
from lockd.daemon.headroom import Headroom
from lockd.daemon.lifetime import LOOK_SECONDS, Lifetime
from lockd.daemon.lock_watch import LockWatch
from lockd.daemon.locker import Locker
from lockd.daemon.log.log import Log
from lockd.daemon.mount_watch import MountWatch
from lockd.daemon.owner_process import owner_name
from lockd.daemon.owners import Owners
from lockd.daemon.programs.admin_program import AdminProgram
from lockd.daemon.programs.explain import Explainer
from lockd.daemon.programs.lock_program import LockProgram
from lockd.daemon.programs.status_program import StatusProgram
from lockd.daemon.reactor import Reactor
from lockd.daemon.server import ADMIN_SERVER, LOCK_SERVER, Limits, Server
from lockd.daemon.session import Session
from lockd.daemon.slow_calls import SlowCalls
from lockd.daemon.start.config import Config
from lockd.daemon.start.sockets import Listeners
from lockd.daemon.tasks import Tasks, go_on
from lockd.engines.files.engine import FilesEngine
from lockd.engines.files.inodes import Inodes
from lockd.engines.files.slow_mounts import SlowMounts
from lockd.linux.processes import open_pidfd
from lockd.locks.resource import State
from lockd.locks.table import LockTable
from lockd.wire import admin, lock

_OWNERS_NAMED: Final = 20
"""How many owners the warning at the end of the daemon names at most, so that it stays readable."""

_logger = logging.getLogger(__name__)


class Daemon:
    """A running daemon.

    :param config: the settings of virtlockd.conf.
    :param log: the log.
    :param inodes: the registry of the claimed inodes. The log claims its files there too, so that no client
        can lock a log file.
    :param timeout: how many seconds without clients and locks end the daemon; None if it never ends for that
        reason.
    :param pid_file: the descriptor of the locked pid file; None if a live upgrade has lost it.
    :param nursery: runs the tasks of the daemon.
    :ivar mounts: which paths may block.
    :ivar sockets_made: the paths of the sockets that have to be removed at the end.
    """

    def __init__(
        self,
        config: Config,
        log: Log,
        inodes: Inodes,
        timeout: int | None,
        pid_file: int | None,
        nursery: trio.Nursery,
    ) -> None:
        self.log = log
        self.inodes = inodes
        self.pid_file = pid_file
        # Claim the pid file: otherwise a client that locks and releases it would end the daemon's lock
        # (Invariant 1).
        if pid_file is not None:
            inodes.adopt(pid_file, "the daemon itself")
        self.sockets_made: list[Path] = []
        self.lifetime = Lifetime(timeout)
        self.counters = Counters()
        self._last_status = ""
        self._headroom = Headroom()
        tasks = Tasks(nursery)
        self.mounts = mounts = SlowMounts()
        self.reactor = Reactor(before_serving=MountWatch(mounts, inodes).look)
        self.slow_calls = SlowCalls()
        log.write_slow_files(self.slow_calls, tasks)
        self.table = LockTable(FilesEngine(inodes, mounts))
        self.locker = Locker(self.table, self.slow_calls, tasks, lambda key: self.owners.get(key))
        self._lock_watch = LockWatch(self.table, self.locker, self.slow_calls, tasks)
        self.owners = Owners(self.reactor, tasks, self.counters, self.locker.release_all, self._holds_any)
        self.lock_server = Server(
            LOCK_SERVER,
            self.reactor,
            Limits(config.max_clients, config.max_clients),
            setting="max_clients",
            payload_kept=lock.ARGUMENTS_MAX,
            on_end=self.owners.session_ended,
        )
        self.admin_server = Server(
            ADMIN_SERVER,
            self.reactor,
            Limits(config.admin_max_clients, config.admin_max_clients),
            setting="admin_max_clients",
            payload_kept=admin.ARGUMENTS_MAX,
            on_end=_nothing_to_do,
        )
        self.lock_server.add_program(
            LockProgram(
                self.table,
                self.locker,
                self.owners,
                Explainer(self.owners.get, mounts.has_server),
                tasks,
                self.counters,
            )
        )
        self.admin_server.add_program(
            AdminProgram(self.servers, self.reactor, self.log, self.lifetime, self.table, tasks)
        )
        self.admin_server.add_program(
            StatusProgram(
                self.lock_server,
                self.table,
                self.locker,
                self.owners,
                self.counters,
                inodes.holder,
                pid_file,
            )
        )

    def _holds_any(self, key: int) -> bool:
        # An owner does not write to a disk whose lock is still being acquired, or is being released.
        return any(resource.state is State.HELD for resource in self.table.holdings(key))

    @property
    def servers(self) -> list[Server]:
        """Both servers, in the order in which virt-admin lists them."""
        return [self.admin_server, self.lock_server]

    @property
    def clients_seen(self) -> int:
        """How many clients have ever connected."""
        return sum(server.next_client_id - 1 for server in self.servers)

    async def serve(self, listeners: Listeners) -> None:
        """Serve until the daemon's lifetime ends. If locks are still held then, they end with the process.

        :param listeners: the listening sockets. They are closed at the end.
        """
        self._warn_of_missing_pidfds()
        self.sockets_made = listeners.made
        if listeners.lock is not None:
            self.lock_server.listen(listeners.lock)
        if listeners.admin is not None:
            self.admin_server.listen(listeners.admin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on, self.reactor.run)
            nursery.start_soon(go_on, self._housekeeping)
            nursery.start_soon(go_on, self._lock_watch.run)
            nursery.start_soon(go_on, systemd.feed_watchdog, self.reactor)
            # The objects that exist now are kept until the end. Garbage collections need not look at them.
            gc.freeze()
            gc.enable()
            systemd.notify_surely("READY=1")
            await self.lifetime.wait()
            nursery.cancel_scope.cancel()
        systemd.notify("STOPPING=1")
        for server in self.servers:
            server.hang_up()
        if self.table:
            self._warn_of_lost_locks()

    def _warn_of_missing_pidfds(self) -> None:
        try:
            pidfd = open_pidfd(os.getpid())
        except OSError as error:
            _logger.error(
                "no owner can be watched, so none can register: pidfd_open: %s; lockd needs Linux 5.3 or later, and "
                "SystemCallFilter= must allow pidfd_open",
                os.strerror(error.errno or 0),
            )
        else:
            if pidfd is not None:
                os.close(pidfd)

    def _warn_of_lost_locks(self) -> None:
        owners = sorted({key for resource in self.table for key in resource.holdings})
        processes = {key: self.owners.get(key) for key in owners[:_OWNERS_NAMED]}
        names = [owner_name(key, process) for key, process in processes.items()]
        if len(owners) > len(names):
            names.append(f"{len(owners) - len(names)} more")
        _logger.warning(
            "the daemon ends while %s held; the disks of these owners are no longer protected: %s",
            "1 lock is" if len(self.table) == 1 else f"{len(self.table)} locks are",
            ", ".join(names),
        )

    async def _housekeeping(self) -> None:
        while True:
            await trio.sleep(LOOK_SECONDS)
            self.reactor.retry()
            for server in self.servers:
                server.update_accepting()
            systemd.notify_waiting()
            self._notify_status()
            needed = bool(self.table) or any(server.sessions for server in self.servers)
            self.lifetime.look(needed=needed, clients_seen=self.clients_seen)
            self._headroom.look()

    def _notify_status(self) -> None:
        guests, locks = len(self.lock_server.sessions), len(self.table)
        status = f"STATUS={guests} guest{'s' * (guests != 1)}, {locks} lock{'s' * (locks != 1)}"
        if status != self._last_status and systemd.notify(status):
            self._last_status = status


def _nothing_to_do(_session: Session) -> None:
    """Do nothing at the end of an admin client's session: it holds no locks."""
