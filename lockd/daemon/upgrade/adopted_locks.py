"""Adoption of lockspaces, locks, and unfinished releases from the state of the program before."""

import logging
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from lockd.daemon import events
from lockd.daemon.interest import interest
from lockd.daemon.locker import Locker
from lockd.daemon.owners import Owners
from lockd.daemon.upgrade import salvage
from lockd.libvirt.state_document import is_autocreate, is_shared
from lockd.locks.engine import Later
from lockd.locks.errors import Busy, NotHeld
from lockd.locks.resource import BEING_TAKEN, LOST, Resource, State
from lockd.locks.table import LockTable

_LOGGED_PER_TURN: Final = 50
"""How many locks are checked and logged before clients are served again. This many take less than a
millisecond."""

_logger = logging.getLogger(__name__)


def adopt_lockspace(table: LockTable, locker: Locker, now: float, entry: dict[str, Any]) -> None:
    """Take over a lockspace and its locks. A lock that cannot be taken over is logged.

    :param table: the lock table.
    :param locker: takes a lock again that is lost.
    :param now: the present time, in seconds since the epoch. It is used for locks whose age is not known.
    :param entry: the entry of the lockspace in the state.
    :raises LookupError: the entry has no path.
    """
    lockspace = entry["directory"]
    table.add_lockspace(lockspace)
    adopt = partial(_adopt_resource, table, locker, now, lockspace)
    salvage.each("the lock on", entry.get("resources"), "path", adopt)


def finish_release(table: LockTable, locker: Locker, now: float, entry: dict[str, Any]) -> None:
    """Take over a lock whose release was under way, and release it.

    :param table: the lock table.
    :param locker: releases the lock.
    :param now: the present time, in seconds since the epoch. It is used if the age of the lock is not known.
    :param entry: the entry of the resource in the state.
    :raises LockError: the lock is lost, or another process has it.
    :raises LookupError: the entry is incomplete.
    """
    resource = _adopt_resource(table, locker, now, entry["lockspace"], entry)
    for owner in list(resource.owners):
        locker.release_by_force(resource, owner)


def _adopt_resource(
    table: LockTable, locker: Locker, now: float, lockspace: str, entry: dict[str, Any]
) -> Resource:
    extra = entry.get("lockd", {})
    # virtlockd has only numbers, which are those of the clients' pid namespaces. See ``Numbers``.
    owners = extra.get("owners", entry["owners"])
    resource = Resource(
        lockspace,
        entry["name"],
        entry["path"],
        table.engine_of(lockspace),
        extra.get("since", now),
        is_shared(entry),
        is_autocreate(entry),
    )
    try:
        hold = resource.engine.adopt(resource, {**extra, "fd": entry["fd"]})
    except Busy as error:
        if isinstance(error.holder, Resource):
            # The file was locked under two names, which virtlockd allows. The lock is kept until the owners
            # of both names have released it.
            table.add_owners(error.holder, owners)
        _logger.error(
            "%s: %s; both names keep the lock until all their owners are gone", resource.path, error
        )
    except OSError:
        if "owners" in extra and not any(map(_may_live, owners)):
            raise NotHeld(resource.name) from None
        _take_again(table, locker, resource, owners)
    else:
        table.adopt(resource, owners, hold)
    return resource


def _may_live(key: int) -> bool:
    """Return whether an owner may be alive: it is, or the daemon cannot see it."""
    return key < 0 or Path(f"/proc/{key}").exists()


def _take_again(table: LockTable, locker: Locker, resource: Resource, owners: list[int]) -> None:
    """Take a lock again that was lost with its descriptor.

    If that may block, a worker thread does it, and the lock is in doubt meanwhile (Invariant 3).

    :raises LockError: the lock cannot be taken, for example because another process has it now.
    """
    taken = resource.engine.take(resource)
    if isinstance(taken, Later):
        table.adopt(resource, owners, resource.engine.lost(resource))
        resource.doubt = BEING_TAKEN
        locker.take_again(resource, taken)
    else:
        table.adopt(resource, owners, taken)
        resource.doubt = LOST


def check_locks(table: LockTable, locker: Locker) -> None:
    """Compare all adopted locks with those that are really held. See ``Engine.check``.

    :param table: the lock table, with all adopted locks.
    :param locker: takes a lock again that is lost.
    """
    by_engine: dict[Any, list[Resource]] = {}
    for resource in table:
        by_engine.setdefault(resource.engine, []).append(resource)
    for engine, resources in by_engine.items():
        for resource, later in engine.check(resources):
            locker.take_again(resource, later)


async def log_locks(table: LockTable, owners: Owners) -> None:
    """Log which locks were taken over, and which of them may not be held. Clients are served meanwhile.

    :param table: the lock table.
    :param owners: the owners of the daemon.
    """
    for number, resource in enumerate(list(table)):
        if number % _LOGGED_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        if resource.doubt is None and resource.state is State.HELD:
            doubt = resource.engine.path_doubt(resource)
            # ``LockWatch`` looks at the others later.
            if isinstance(doubt, str):
                resource.doubt = doubt
        if resource.doubt is not None:
            _logger.error("%s was taken over, but %s", resource.path, resource.doubt)
        elif interest.in_grants and resource.state is State.HELD:
            for key in resource.owners:
                events.taken_over(resource, key, owners.get(key))
