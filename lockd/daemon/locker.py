"""The locker: acquires and releases locks, with the lock table and the engines.

The lock table decides whether an owner gets a resource; an engine then takes the lock. If the engine's work
cannot block, it is done at once. If it may block, it runs in a worker thread while the resource is reserved
in the table, and the caller gets a continuation to await (Invariant 3).
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from time import time
from typing import Final, TypeAlias, TypeVar

import trio

from lockd.daemon import events
from lockd.daemon.interest import interest
from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.rate_limit import faults
from lockd.daemon.slow_calls import SlowCalls
from lockd.daemon.tasks import Tasks
from lockd.locks.engine import Hold, Later
from lockd.locks.errors import LockError, TryAgain
from lockd.locks.resource import LOST, Resource, State
from lockd.locks.table import LockTable

T = TypeVar("T")

Continuation: TypeAlias = Callable[[], Awaitable[None]]
"""The rest of a call that may block. Awaiting it completes the call."""

_DROPPED_PER_TURN: Final = 100
"""How many locks of a dead owner are released before other tasks get a turn. This many take a millisecond or
less."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
"""How many seconds to wait before the release of a lock is tried again that has failed for no known reason: at
first, and at most. The pause doubles each time."""

_FIRST_WAIT: Final = 0.01
_LONGEST_WAIT: Final = 0.25
"""The same for work that somebody was in the way of for a moment (``TryAgain``)."""

_clock: Final = time

_logger = logging.getLogger(__name__)


class Locker:
    """Acquires and releases locks for clients.

    A method that returns None has done its work. If it returns a continuation, the caller has to await it;
    the errors that are documented for the method may then be raised by the continuation.

    :param table: the lock table.
    :param slow_calls: runs work that may block.
    :param tasks: runs work whose end no caller waits for.
    :param owner_of: returns the owner with a key, or None if there is none.
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
        # The resources whose locks are being taken again, with what is set at the end of that.
        self._being_taken: dict[Resource, trio.Event] = {}

    # Locks

    def acquire(
        self,
        lockspace: str,
        name: str,
        key: int,
        shared: bool,
        autocreate: bool,
        is_wanted: Callable[[], bool],
    ) -> Continuation | None:
        """Acquire a resource.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :param key: the key of the owner: its pid, or a negative number if that is not known.
        :param shared: whether others may hold it at the same time, if they acquire it shared too.
        :param autocreate: whether the resource's file is created for the lock, and removed with it.
        :param is_wanted: returns whether the client still waits for the lock. It is called after a worker
            thread has taken the lock. If it returns False, or if the owner has ended, the lock is released
            again.
        :returns: None if the lock is granted, otherwise the continuation.
        :raises LockError: the lock is refused, or cannot be taken.
        """
        table = self._table
        resource = table.reserve(lockspace, name, key, _clock(), shared, autocreate)
        if resource is None:
            return None
        try:
            taken = resource.engine.take(resource)
        except BaseException:
            table.forget(resource)
            raise
        if isinstance(taken, Later):
            # The task that goes on may begin after the owner has ended and is forgotten.
            return partial(self._acquire_slowly, resource, taken, key, self._owner_of(key), is_wanted)
        table.grant(resource, taken)
        if interest.in_grants:
            events.acquired(resource, key, self._owner_of(key))
        return None

    async def _acquire_slowly(
        self,
        resource: Resource,
        later: Later[Hold],
        key: int,
        owner: OwnerProcess | None,
        is_wanted: Callable[[], bool],
    ) -> None:
        try:
            hold = await self._done(later, lambda: is_wanted() and not (owner is not None and owner.ended))
        except BaseException:
            self._table.forget(resource)
            raise
        self._table.grant(resource, hold)
        if interest.in_grants:
            events.acquired(resource, key, owner)
        if not is_wanted() or (owner is not None and owner.ended):
            dropped = self._table.end_holding(resource.lockspace, resource.name, key)
            rest = None if dropped is None else self._drop(dropped, key, owner)
            if rest is not None:
                await rest()

    def release(self, lockspace: str, name: str, key: int) -> Continuation | None:
        """End one holding of an owner, and release the lock if it was the last holding of the resource.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :param key: the key of the owner: its pid, or a negative number if that is not known.
        :returns: None if all is done, otherwise the continuation.
        :raises LockError: the owner has no holding of this resource.
        """
        resource = self._table.end_holding(lockspace, name, key)
        return None if resource is None else self._drop(resource, key)

    def release_all(self, key: int) -> None:
        """End all holdings of an owner.

        This returns without waiting for slow file systems. If the owner has very many locks, the rest of them
        is released in a task, so that no client waits for that either (Invariant 3).

        :param key: the key of the owner: its pid, or a negative number if that is not known.
        """
        # ``owner_of`` may no longer know the owner when the last release is logged.
        owner = self._owner_of(key)
        ended = self._table.end_holdings(key)
        self._drop_each(ended[:_DROPPED_PER_TURN], key, owner)
        if len(ended) > _DROPPED_PER_TURN:
            self._tasks.start(self._drop_in_turns, ended[_DROPPED_PER_TURN:], key, owner)

    async def _drop_in_turns(self, resources: list[Resource], key: int, owner: OwnerProcess | None) -> None:
        for first in range(0, len(resources), _DROPPED_PER_TURN):
            await trio.lowlevel.checkpoint()
            self._drop_each(resources[first : first + _DROPPED_PER_TURN], key, owner)

    def _drop_each(self, resources: list[Resource], key: int, owner: OwnerProcess | None) -> None:
        for resource in resources:
            rest = self._drop(resource, key, owner)
            if rest is not None:
                self._tasks.start(rest)

    def release_by_force(self, resource: Resource, key: int) -> None:
        """End all holdings of an owner on one resource, although the owner has not asked for it.

        This returns without waiting for slow file systems.

        :param resource: the resource.
        :param key: the key of the owner: its pid, or a negative number if that is not known.
        :raises LockError: the resource is being acquired or released.
        """
        if self._table.end_holdings_of(resource, key):
            self._drop_each([resource], key, self._owner_of(key))

    def take_again(self, resource: Resource, later: Later[Hold]) -> None:
        """Have a worker thread take a lock again that is lost. Its owners keep it meanwhile, in doubt.

        If it cannot be taken, that is logged. If it is released meanwhile, it is dropped after that.

        :param resource: the resource, which is held.
        :param later: takes the lock, and returns the new hold. The old one is replaced.
        """
        if resource in self._being_taken:
            return
        ended = self._being_taken[resource] = trio.Event()
        self._tasks.start(self._take_again, resource, later, ended)

    async def _take_again(self, resource: Resource, later: Later[Hold], ended: trio.Event) -> None:
        try:
            resource.hold = await self._done(later, surely=True)
            resource.doubt = LOST
            _logger.warning("%s: %s", resource.path, LOST)
        except LockError as error:
            doubt = f"the lock was lost: {error}"
            if resource.doubt != doubt:
                resource.doubt = doubt
                _logger.error("%s: %s", resource.path, doubt)
        finally:
            del self._being_taken[resource]
            ended.set()
        if not resource.engine.holds(resource):
            for key in resource.owners if resource.state is State.HELD else ():
                self.release_by_force(resource, key)

    async def _drop_when_taken(
        self, resource: Resource, ended: trio.Event, key: int, owner: OwnerProcess | None
    ) -> None:
        await ended.wait()
        rest = self._drop(resource, key, owner)
        if rest is not None:
            await rest()

    def _drop(self, resource: Resource, key: int, owner: OwnerProcess | None = None) -> Continuation | None:
        if self._being_taken:
            ended = self._being_taken.get(resource)
            if ended is not None:
                return partial(self._drop_when_taken, resource, ended, key, owner or self._owner_of(key))
        later: Later[None] | None = None
        try:
            later = resource.engine.drop(resource)
        except OSError as error:
            _warn_of_unclean_release(resource, error)
        except Exception:
            _log_failed_release(resource)
            if resource.engine.holds(resource):
                return partial(self._drop_again, resource, key, owner or self._owner_of(key))
        if later is not None:
            return partial(self._drop_slowly, resource, later, key, owner or self._owner_of(key))
        self._dropped(resource, key, owner)
        return None

    async def _drop_slowly(
        self, resource: Resource, later: Later[None], key: int, owner: OwnerProcess | None
    ) -> None:
        try:
            await self._slow_calls.run_surely(later.queue, later.work)
        except OSError as error:
            _warn_of_unclean_release(resource, error)
        except Exception:
            _log_failed_release(resource)
            if resource.engine.holds(resource):
                await self._drop_again(resource, key, owner)
                return
        self._dropped(resource, key, owner)

    async def _drop_again(self, resource: Resource, key: int, owner: OwnerProcess | None) -> None:
        """Release a lock whose release has failed for no known reason, so that it is not stuck for ever."""
        pause = _FIRST_PAUSE
        while resource.engine.holds(resource):
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                later = resource.engine.drop(resource)
                if later is not None:
                    await self._slow_calls.run_surely(later.queue, later.work)
            except Exception:
                _log_failed_release(resource)
        self._dropped(resource, key, owner)

    def _dropped(self, resource: Resource, key: int, owner: OwnerProcess | None) -> None:
        self._table.forget(resource)
        if interest.in_grants:
            events.released(resource, key, owner or self._owner_of(key))

    # Lockspaces and their files

    def create_lockspace(self, path: str, *, new: bool = False) -> Continuation | None:
        """Make a lockspace and register it.

        If the lockspace is registered already, only its directory is made, if that is missing.

        :param path: the path of the lockspace.
        :param new: whether to refuse a lockspace that is registered already.
        :returns: None if all is done, otherwise the continuation.
        :raises LockError: the lockspace cannot be made.
        """
        if new:
            self._table.check_new_lockspace(path)
        later = self._table.engine_of(path).make_lockspace(path)
        if later is not None:
            return partial(self._create_lockspace_slowly, path, later, new)
        self._table.add_lockspace(path)
        return None

    async def _create_lockspace_slowly(self, path: str, later: Later[None], new: bool) -> None:
        await self._done(later)
        if new:
            self._table.check_new_lockspace(path)  # another client may have been faster
        self._table.add_lockspace(path)

    def create_file(self, lockspace: str, name: str) -> Continuation | None:
        """Create the file of a resource that nobody holds; no effect if it exists.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :returns: None if all is done, otherwise the continuation.
        :raises LockError: the resource is held, or the file cannot be created.
        """
        path = self._table.check_free(lockspace, name)
        return self._rest_of(self._table.engine_of(lockspace).create(path))

    def delete_file(self, lockspace: str, name: str) -> Continuation | None:
        """Remove the file of a resource that nobody holds; no effect if it does not exist.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :returns: None if all is done, otherwise the continuation.
        :raises LockError: the resource is held, or the file cannot be removed.
        """
        path = self._table.check_free(lockspace, name)
        return self._rest_of(self._table.engine_of(lockspace).delete(path, name))

    def _rest_of(self, later: Later[None] | None) -> Continuation | None:
        return None if later is None else partial(self._done, later)

    async def _done(
        self, later: Later[T], is_wanted: Callable[[], bool] = lambda: True, *, surely: bool = False
    ) -> T:
        """Have a worker thread do the work, and do it again after pauses while somebody is in the way for a moment.

        :param surely: whether to wait as long as no thread can be started.
        :raises LockError: it cannot be done, or somebody has been in the way for too long.
        """
        began = trio.current_time()
        pause = _FIRST_WAIT
        while True:
            tried = trio.current_time() - began
            try:
                if surely:
                    result = await self._slow_calls.run_surely(later.queue, later.work)
                else:
                    result = await self._slow_calls.run(later.queue, later.work)
            except TryAgain as error:
                if tried > error.seconds or not is_wanted():
                    raise error.refusal from None
            else:
                if not isinstance(result, Later):
                    return result
                later = result
                continue
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_WAIT)


def _log_failed_release(resource: Resource) -> None:
    if faults.allows():
        _logger.exception("%s could not be released", resource.path)


def _warn_of_unclean_release(resource: Resource, error: OSError) -> None:
    _logger.warning("%s was released, but not cleanly: %s", resource.path, error)
