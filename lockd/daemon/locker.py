"""The locker: takes and ends the kernel's locks, on the spot where the file system is local.

What can block runs in a worker thread while the resource is reserved in the table, and the caller gets a
continuation to await (Invariant 3).
"""

import errno
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

import trio

from lockd.daemon import events
from lockd.daemon.interest import interest
from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.session import Session
from lockd.daemon.slow_calls import SlowCalls
from lockd.daemon.tasks import Tasks
from lockd.locks.errors import SystemCallFailed
from lockd.locks.mounts import MountTable
from lockd.locks.resource import Resource
from lockd.locks.table import LockTable, create_file, delete_file, make_lockspace_directory

Continuation: TypeAlias = Callable[[], Awaitable[None]]
"""The rest of a call that could not be done on the spot."""

_DROPPED_PER_TURN: Final = 100
"""Locks of a dead owner that are released, in a millisecond or less, before the others get their turn."""

_FOR_A_THREAD: Final = frozenset((errno.ELOOP, errno.EWOULDBLOCK))
"""What opening says of a symbolic link, which may lead anywhere, and of a file on which somebody has a lease."""

_logger = logging.getLogger(__name__)


class Locker:
    """Does to files what the lock table decides.

    Its methods return None where all is done, or the continuation that has to be awaited.
    """

    def __init__(
        self,
        table: LockTable,
        mounts: MountTable,
        slow_calls: SlowCalls,
        tasks: Tasks,
        owner_of: Callable[[int], OwnerProcess | None],
    ) -> None:
        self._table = table
        self._mounts = mounts
        self._slow_calls = slow_calls
        self._tasks = tasks
        self._owner_of = owner_of

    # Locks

    def acquire(
        self, session: Session, lockspace: str, name: str, owner: int, shared: bool, autocreate: bool
    ) -> Continuation | None:
        """Acquire a resource for the owner of this pid.

        :raises LockError: it cannot be had.
        """
        table = self._table
        resource = table.reserve(lockspace, name, owner, shared, autocreate)
        if resource is None:
            return None
        try:
            resource.slow_mount = self._mounts.slow_mount(resource.path)
            if resource.slow_mount is None:
                resource.take(table.inodes)
                table.grant(resource)
                if interest.in_grants:
                    events.acquired(resource, owner, self._owner_of(owner))
                return None
        except SystemCallFailed as error:
            if error.errno not in _FOR_A_THREAD:
                table.forget(resource)
                raise
            resource.slow_mount = self._mounts.slow_mount(f"{resource.path}/") or "/"
        except BaseException:
            table.forget(resource)
            raise
        return partial(self._acquire_slowly, session, resource, owner)

    async def _acquire_slowly(self, session: Session, resource: Resource, owner: int) -> None:
        process = self._owner_of(owner)
        try:
            await self._slow_calls.run(resource.slow_mount or "/", resource.take_pinned, self._table.inodes)
        except BaseException:
            self._table.forget(resource)
            raise
        self._table.grant(resource)
        if interest.in_grants:
            events.acquired(resource, owner, process)
        if session.closed or (process is not None and process.ended):
            # Nobody is there any more to be told of the lock.
            dropped = self._table.end_holding(resource.lockspace, resource.name, owner)
            if dropped is not None:
                await self._drop_slowly(dropped, owner)

    def release(self, lockspace: str, name: str, owner: int) -> Continuation | None:
        """Take one holding of the owner of this pid away.

        :raises LockError: it has none.
        """
        resource = self._table.end_holding(lockspace, name, owner)
        return None if resource is None else self._drop(resource, owner)

    def release_all(self, owner: int) -> None:
        """Take all holdings of the owner of this pid away.

        Nobody waits for that, not for slow file systems and not for an owner of thousands of locks.
        """
        # The owner may be forgotten when it comes to log whose locks these were.
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
            slowly = self._drop(resource, owner, process)
            if slowly is not None:
                self._tasks.start(slowly)

    def release_by_force(self, resource: Resource, owner: int) -> None:
        """Take all holdings of the owner of this pid on one resource away, without asking for the owner."""
        for _ in range(resource.holdings.count(owner)):
            slowly = self.release(resource.lockspace, resource.name, owner)
            if slowly is not None:
                self._tasks.start(slowly)

    def _drop(
        self, resource: Resource, owner: int, process: OwnerProcess | None = None
    ) -> Continuation | None:
        if resource.slow_mount is not None:
            return partial(self._drop_slowly, resource, owner, process)
        try:
            resource.drop(self._table.inodes)
        except OSError as error:
            _logger.warning("%s was released, but not cleanly: %s", resource.path, error)
        self._dropped(resource, owner, process)
        return None

    async def _drop_slowly(self, resource: Resource, owner: int, process: OwnerProcess | None = None) -> None:
        try:
            await self._slow_calls.run(resource.slow_mount or "/", resource.drop, self._table.inodes)
        except OSError as error:
            _logger.warning("%s was released, but not cleanly: %s", resource.path, error)
        self._dropped(resource, owner, process)

    def _dropped(self, resource: Resource, owner: int, process: OwnerProcess | None) -> None:
        self._table.forget(resource)
        if interest.in_grants:
            events.released(resource, owner, process or self._owner_of(owner))

    # Lockspaces and their files

    def create_lockspace(self, path: str) -> Continuation | None:
        """Make a lockspace and its directory. It may be known, and have lost its directory.

        :raises LockError: it cannot be made.
        """
        make = partial(make_lockspace_directory, path)
        known = partial(self._table.add_lockspace, path)
        return self._on_the_spot_or_slowly(path, make, known)

    def create_file(self, lockspace: str, name: str) -> Continuation | None:
        """Create a resource's file.

        :raises LockError: it is held, or cannot be created.
        """
        path = self._table.check_free(lockspace, name)
        return self._on_the_spot_or_slowly(path, partial(create_file, self._table.inodes, path))

    def delete_file(self, lockspace: str, name: str) -> Continuation | None:
        """Remove a resource's file.

        :raises LockError: it is held, or cannot be removed.
        """
        path = self._table.check_free(lockspace, name)
        return self._on_the_spot_or_slowly(path, partial(delete_file, self._table.inodes, path, name))

    def _on_the_spot_or_slowly(
        self, path: str, work: Callable[[], None], then: Callable[[], None] = lambda: None
    ) -> Continuation | None:
        slow_mount = self._mounts.slow_mount(f"{path}/") if "\0" not in path else None
        if slow_mount is None:
            work()
            then()
            return None

        async def slowly() -> None:
            await self._slow_calls.run(slow_mount, work)
            then()

        return slowly
