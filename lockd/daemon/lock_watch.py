"""Looks, again and again, whether the paths of held locks still name what is locked.

An administrator, a backup or a clean-up may remove or replace a lease file, or a disk. Then the lock is kept on a file
that nobody finds any more, and another daemon is granted a lock on the new one.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from lockd.daemon.locker import Locker
from lockd.daemon.slow_calls import NoThread, SlowCalls
from lockd.daemon.tasks import Tasks
from lockd.locks.engine import Hold, Later
from lockd.locks.resource import LOST, Resource, State
from lockd.locks.table import LockTable

_SECONDS: Final = 5.0
"""The time between two looks at locks that can be looked at without waiting."""

_SLOW_ROUNDS: Final = 12
"""Every how many looks those locks are looked at that a worker thread has to look at. A live upgrade waits for a thread
that hangs, as nothing can end it (``SlowCalls.paused``). So no look begins on a file system that is known to hang, and
none while an upgrade waits; but a look may be the first call that hangs. This is not done more often than is useful."""

_PER_TURN: Final = 50
"""How many locks are looked at before clients are served again. This many take less than a millisecond."""

_logger = logging.getLogger(__name__)


class LockWatch:
    """Notices locks whose paths name something else now, and takes those on lease files again.

    A disk is only reported: the guest has the old file open, so the lock on that one is the one that protects it.

    :param table: the lock table.
    :param locker: takes locks again.
    :param slow_calls: runs looks that may block.
    :param tasks: runs the tasks that wait for these.
    """

    def __init__(self, table: LockTable, locker: Locker, slow_calls: SlowCalls, tasks: Tasks) -> None:
        self._table = table
        self._locker = locker
        self._slow_calls = slow_calls
        self._tasks = tasks
        # What was found, by the resources that it is the doubt of.
        self._found: dict[Resource, str] = {}
        # The queues in which a look is under way.
        self._looking: set[str] = set()

    async def run(self) -> None:
        """Look until the daemon ends."""
        number = 0
        while True:
            await trio.sleep(_SECONDS)
            number += 1
            await self.look(slow=number % _SLOW_ROUNDS == 0)

    async def look(self, *, slow: bool) -> None:
        """Look at all held locks once.

        :param slow: whether to start looks by worker threads too. This does not wait for them.
        """
        self._found = {resource: found for resource, found in self._found.items() if _is_held(resource)}
        by_queue: dict[str, list[tuple[Resource, Hold, Callable[[], object]]]] = {}
        for number, resource in enumerate(list(self._table)):
            if number % _PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            hold = resource.hold
            if hold is None or not _is_held(resource):
                continue
            doubt = resource.engine.path_doubt(resource)
            if not isinstance(doubt, Later):
                self._note(resource, hold, doubt)
            elif slow:
                by_queue.setdefault(doubt.queue, []).append((resource, hold, doubt.work))
        for queue, looks in by_queue.items():
            if queue not in self._looking:
                # Each starts a thread. If those of thousands of block devices started at once, all clients would wait.
                await trio.lowlevel.checkpoint()
                self._looking.add(queue)
                self._tasks.start(self._look_slowly, queue, looks)

    async def _look_slowly(
        self, queue: str, looks: list[tuple[Resource, Hold, Callable[[], object]]]
    ) -> None:
        """Look at the locks of one queue, with one thread: a server that hangs cannot use up the others."""
        try:
            for first in range(0, len(looks), _PER_TURN):
                if not self._slow_calls.may_look(queue):
                    return  # the next look comes
                some = looks[first : first + _PER_TURN]
                doubts = await self._slow_calls.run(queue, partial(_do_each, [work for _, _, work in some]))
                for (resource, hold, _), doubt in zip(some, doubts, strict=True):
                    self._note(resource, hold, doubt if isinstance(doubt, str) else None)
        except NoThread:
            pass  # the next look comes
        finally:
            self._looking.remove(queue)

    def _note(self, resource: Resource, hold: Hold, doubt: str | None) -> None:
        """Note what was found of a lock, unless it was released or taken again meanwhile."""
        if resource.hold is not hold or not _is_held(resource):
            return
        known = self._found.get(resource)
        if doubt is None:
            if known is not None:
                del self._found[resource]
                if resource.doubt != LOST:
                    resource.doubt = None
                    _logger.warning("%s: its path names the locked file again", resource.path)
            return
        if known is None and resource.doubt is None:
            resource.doubt = doubt
            _logger.error("%s is held, but %s: see lockctl status", resource.path, doubt)
        self._found[resource] = doubt
        if resource.autocreate:
            self._locker.take_again(resource, resource.engine.take_anew(resource))


def _is_held(resource: Resource) -> bool:
    return resource.state is State.HELD


def _do_each(works: list[Callable[[], object]]) -> list[object]:
    return [work() for work in works]
