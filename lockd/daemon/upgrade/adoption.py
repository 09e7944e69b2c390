"""Adoption: this program continues the daemon that ran in this process before. That was lockd or virtlockd.

A part of the state that cannot be taken over is logged by its name, and all other parts are kept.
"""

import logging
from functools import partial
from time import time
from typing import Any

from lockd.daemon.daemon import Daemon
from lockd.daemon.tasks import Tasks
from lockd.daemon.upgrade import adopted_clients, adopted_locks, salvage
from lockd.daemon.upgrade.leftovers import adopt_leftovers, locate_devices
from lockd.locks.resource import DIRECT

_logger = logging.getLogger(__name__)


def adopt(daemon: Daemon, state: dict[str, Any]) -> None:
    """Take over everything in a state: first the locks, then the owners and clients, then calls.

    :param daemon: the daemon, which does not serve clients yet.
    :param state: the state that the program before this one has written.
    """
    extra = salvage.dictionary(state, "lockd")
    if isinstance(extra.get("timeout", ""), int | None):
        daemon.lifetime.timeout = extra["timeout"]
    now = time()
    adopt_lockspace = partial(adopted_locks.adopt_lockspace, daemon.table, daemon.locker, now)
    direct = {"directory": DIRECT, **salvage.dictionary(state, "defaultLockspace")}
    for lockspaces in (state.get("lockspaces"), [direct]):
        salvage.each("lockspace", lockspaces, "directory", adopt_lockspace)
    with salvage.part("the kernel's list of locks"):
        adopted_locks.check_locks(daemon.table, daemon.locker)
    adopt_owner = partial(adopted_clients.adopt_owner, daemon.owners)
    salvage.each("owner", extra.get("owners"), "pid", adopt_owner)
    with salvage.part("the keys of the owners"):
        daemon.owners.keep_keys(key for resource in daemon.table for key in resource.holdings)
    numbers = None if extra.get("by_key") else adopted_clients.Numbers(daemon.owners, daemon.table)
    clients = adopted_clients.Clients(daemon.reactor, daemon.owners, numbers)
    servers = salvage.dictionary(salvage.dictionary(state, "daemon"), "servers")
    for server in daemon.servers:
        clients.adopt(server, salvage.dictionary(servers, server.name))
    if numbers is not None:
        with salvage.part("the owners of the locks"):
            numbers.replace()
    adopted_clients.watch_over_unknown_owners(daemon.owners, daemon.table)
    for process in list(daemon.owners):
        if process.fencing_since is not None:
            daemon.owners.fence(process)
    finish_release = partial(adopted_locks.finish_release, daemon.table, daemon.locker, now)
    salvage.each("release of", extra.get("releasing"), "path", finish_release)
    daemon.owners.discard_unneeded()
    with salvage.part("the idle time"):
        daemon.lifetime.resume(extra.get("idle_seconds", 0.0), daemon.clients_seen)
    with salvage.part("the counters"):
        daemon.counters.adopt(salvage.dictionary(extra, "counters"))
    with salvage.part("the log"):
        # The log comes last: now all locked files are claimed, so none of them can be opened as a log file
        # (Invariant 1).
        daemon.log.adopt(salvage.dictionary(extra, "log"))
    clients.resume()
    _logger.info("took over %d locks and %d clients", len(daemon.table), len(daemon.lock_server.sessions))


def go_on_adopting(daemon: Daemon, tasks: Tasks) -> None:
    """Start the rest of the adoption, which runs in tasks while clients are served.

    :param daemon: the daemon, after ``adopt``.
    :param tasks: runs the tasks.
    """
    tasks.start(locate_devices, daemon.slow_calls, daemon.inodes)
    tasks.start(adopt_leftovers, daemon.slow_calls, daemon.inodes)
    tasks.start(adopted_locks.log_locks, daemon.table, daemon.owners)
