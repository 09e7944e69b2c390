"""The locker: has engines take and end the locks that the lock table decides on.

An engine does what cannot block on the spot. What may block runs in a worker thread while the resource is reserved in
the table, and the caller gets a continuation to await (Invariant 3).
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from time import time
from typing import Final, TypeAlias

import trio

from lockd.daemon import events
from lockd.daemon.interest import interest
from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.slow_calls import SlowCalls
from lockd.daemon.tasks import Tasks
from lockd.locks.engine import Hold, Later
from lockd.locks.resource import Resource
from lockd.locks.table import LockTable

Continuation: TypeAlias = Callable[[], Awaitable[None]]
"""The rest of a call that could not be done on the spot."""

_DROPPED_PER_TURN: Final = 100
"""Locks of a dead owner that are released, in a millisecond or less, before the others get their turn."""

_clock: Final = time

_logger = logging.getLogger(__name__)


class Locker:
    """Acquires and releases locks for clients.

    Its methods return None where all is done, or the continuation that has to be awaited.

    :param table: who holds what.
    :param slow_calls: runs what may block.
    :param tasks: where work goes on that nobody waits for.
    :param owner_of: returns the owner of a pid, or None where it is not known.
    """

    def __init__(
        self,
        table: LockTable,
        slow_calls: SlowCalls,
        tasks: Tasks,
        owner_of: Callable[[int], OwnerProcess | None],
    ) -> None:
        self._table = table
        self._slow_calls = slow_calls
        self._tasks = tasks
        self._owner_of = owner_of

    # Locks

    def acquire(
        self,
        lockspace: str,
        name: str,
        owner: int,
        shared: bool,
        autocreate: bool,
        is_wanted: Callable[[], bool],
    ) -> Continuation | None:
        """Acquire a resource.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :param owner: the pid of the owner.
        :param shared: whether others may hold it at the same time, if they share it too.
        :param autocreate: whether its file is to be made for the lock, and removed with it.
        :param is_wanted: whether somebody still waits for the lock. It is asked when the lock was taken in a worker
            thread; where nobody wants it any more, it is released again.
        :returns: None, or the continuation.
        :raises LockError: it cannot be had.
        """
        table = self._table
        resource = table.reserve(lockspace, name, owner, _clock(), shared, autocreate)
        if resource is None:
            return None
        try:
            taken = resource.engine.take(resource)
        except BaseException:
            table.forget(resource)
            raise
        if isinstance(taken, Later):
            return partial(self._acquire_slowly, resource, taken, owner, is_wanted)
        table.grant(resource, taken)
        if interest.in_grants:
            events.acquired(resource, owner, self._owner_of(owner))
        return None

    async def _acquire_slowly(
        self, resource: Resource, later: Later[Hold], owner: int, is_wanted: Callable[[], bool]
    ) -> None:
        process = self._owner_of(owner)
        try:
            hold = await self._slow_calls.run(later.queue, later.work)
        except BaseException:
            self._table.forget(resource)
            raise
        self._table.grant(resource, hold)
        if interest.in_grants:
            events.acquired(resource, owner, process)
        if not is_wanted() or (process is not None and process.ended):
            dropped = self._table.end_holding(resource.lockspace, resource.name, owner)
            rest = None if dropped is None else self._drop(dropped, owner, process)
            if rest is not None:
                await rest()

    def release(self, lockspace: str, name: str, owner: int) -> Continuation | None:
        """Take one holding of an owner away, and end the lock with the last one.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :param owner: the pid of the owner.
        :returns: None, or the continuation.
        :raises LockError: the owner has no such holding.
        """
        resource = self._table.end_holding(lockspace, name, owner)
        return None if resource is None else self._drop(resource, owner)

    def release_all(self, owner: int) -> None:
        """Take all holdings of an owner away.

        Nobody waits for that: neither for slow file systems, nor for an owner of thousands of locks.

        :param owner: the pid of the owner.
        """
        # The owner may be forgotten by the time that the last release is logged.
        process = self._owner_of(owner)
        ended = self._table.end_holdings(owner)
        self._drop_each(ended[:_DROPPED_PER_TURN], owner, process)
        if len(ended) > _DROPPED_PER_TURN:
            self._tasks.start(self._drop_in_turns, ended[_DROPPED_PER_TURN:], owner, process)

    async def _drop_in_turns(
        self, resources: list[Resource], owner: int, process: OwnerProcess | None
    ) -> None:
        for first in range(0, len(resources), _DROPPED_PER_TURN):
            await trio.lowlevel.checkpoint()
            self._drop_each(resources[first : first + _DROPPED_PER_TURN], owner, process)

    def _drop_each(self, resources: list[Resource], owner: int, process: OwnerProcess | None) -> None:
        for resource in resources:
            rest = self._drop(resource, owner, process)
            if rest is not None:
                self._tasks.start(rest)

    def release_by_force(self, resource: Resource, owner: int) -> None:
        """Take all holdings of an owner on one resource away, although the owner has not asked for it.

        :param resource: the resource.
        :param owner: the pid of the owner.
        """
        for _ in range(resource.holdings.count(owner)):
            rest = self.release(resource.lockspace, resource.name, owner)
            if rest is not None:
                self._tasks.start(rest)

    def _drop(
        self, resource: Resource, owner: int, process: OwnerProcess | None = None
    ) -> Continuation | None:
        later: Later[None] | None = None
        try:
            later = resource.engine.drop(resource)
        except OSError as error:
            _warn_of_unclean_release(resource, error)
        if later is not None:
            return partial(self._drop_slowly, resource, later, owner, process)
        self._dropped(resource, owner, process)
        return None

    async def _drop_slowly(
        self, resource: Resource, later: Later[None], owner: int, process: OwnerProcess | None
    ) -> None:
        try:
            await self._slow_calls.run(later.queue, later.work)
        except OSError as error:
            _warn_of_unclean_release(resource, error)
        self._dropped(resource, owner, process)

    def _dropped(self, resource: Resource, owner: int, process: OwnerProcess | None) -> None:
        self._table.forget(resource)
        if interest.in_grants:
            events.released(resource, owner, process or self._owner_of(owner))

    # Lockspaces and their files

    def create_lockspace(self, path: str) -> Continuation | None:
        """Make a lockspace and register it. It may be known already, and have lost its directory.

        :param path: the path of the lockspace.
        :returns: None, or the continuation.
        :raises LockError: it cannot be made.
        """
        later = self._table.engine_of(path).make_lockspace(path)
        if later is not None:
            return partial(self._create_lockspace_slowly, path, later)
        self._table.add_lockspace(path)
        return None

    async def _create_lockspace_slowly(self, path: str, later: Later[None]) -> None:
        await self._slow_calls.run(later.queue, later.work)
        self._table.add_lockspace(path)

    def create_file(self, lockspace: str, name: str) -> Continuation | None:
        """Create a resource's file.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :returns: None, or the continuation.
        :raises LockError: it is held, or cannot be created.
        """
        path = self._table.check_free(lockspace, name)
        return self._rest_of(self._table.engine_of(lockspace).create(path))

    def delete_file(self, lockspace: str, name: str) -> Continuation | None:
        """Remove a resource's file.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :returns: None, or the continuation.
        :raises LockError: it is held, or cannot be removed.
        """
        path = self._table.check_free(lockspace, name)
        return self._rest_of(self._table.engine_of(lockspace).delete(path, name))

    def _rest_of(self, later: Later[None] | None) -> Continuation | None:
        return None if later is None else partial(self._slow_calls.run, later.queue, later.work)


def _warn_of_unclean_release(resource: Resource, error: OSError) -> None:
    _logger.warning("%s was released, but not cleanly: %s", resource.path, error)
