"""System calls that may block, each in a worker thread.

Each slow file system has a limited number of threads of its own, so that a dead server cannot use up the
threads of another one (Invariant 3). A live upgrade begins only when no thread is busy: execve(2) waits until
all other threads of the process have ended, and a thread that waits for a hung server may end only when the
server answers. All clients would have to wait for that.
"""

import errno
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, ParamSpec, TypeVar

import trio

from lockd.daemon.rate_limit import Trouble
from lockd.locks.errors import SystemCallFailed

T = TypeVar("T")
P = ParamSpec("P")

_THREADS_PER_QUEUE: Final = 16
"""How many calls of one queue, such as a slow file system, may be under way."""

_HUNG_SECONDS: Final = 1.0
"""A call that takes longer than this, in seconds, is hung: it may never return."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
"""How many seconds to wait before a thread is tried again that could not be started: at first, and at most. The
pause doubles each time."""

_NO_THREAD: Final = (
    "no thread can be started, as the limit of tasks or the memory is used up; "
    "raise TasksMax= of virtlockd.service (ulimit -u)"
)

_logger = logging.getLogger(__name__)


class NoThread(SystemCallFailed):
    """No thread can be started for a call (pthread_create(3)). Nothing was done.

    :param queue: the queue of the call.
    """

    def __init__(self, queue: str) -> None:
        super().__init__(f"Unable to serve {queue}", OSError(errno.EAGAIN, _NO_THREAD))


class SlowCalls:
    """Runs calls that may block in worker threads."""

    def __init__(self) -> None:
        self._limiters: dict[str, trio.CapacityLimiter] = {}
        # trio's default limiter has one limit for all threads. Here, each queue has a limit of its own.
        self._unlimited = trio.CapacityLimiter(math.inf)
        self._under_way: dict[object, tuple[str, float]] = {}
        self._ended = trio.Event()
        self._may_begin = trio.Event()
        self._may_begin.set()
        self._upgrade_waits = False
        self._trouble = Trouble(_logger)

    async def run(self, queue: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a worker thread, as soon as its file system has a thread free.

        If the caller is cancelled, as at the end of the daemon, a hung thread is abandoned.

        :param queue: what the function may wait for, such as a mount point (``Later.queue``).
        :param work: the function. It must be safe to run in a thread.
        :param args: its positional arguments.
        :param kwargs: its keyword arguments.
        :returns: what the function returns.
        :raises NoThread: no thread can be started.
        :raises Exception: what the function raises.
        """
        limiter = self._limiters.get(queue)
        if limiter is None:
            limiter = self._limiters[queue] = trio.CapacityLimiter(_THREADS_PER_QUEUE)
        try:
            return await self._run(queue, limiter, partial(work, *args, **kwargs))
        finally:
            # There may be a queue for each directory and each device.
            if not limiter.borrowed_tokens and self._limiters.get(queue) is limiter:
                del self._limiters[queue]

    async def _run(self, queue: str, limiter: trio.CapacityLimiter, work: Callable[[], T]) -> T:
        began = False

        def work_in_thread() -> T:
            nonlocal began
            began = True
            return work()

        async with limiter:
            while not self._may_begin.is_set():
                await self._may_begin.wait()
            call = object()
            self._under_way[call] = (queue, trio.current_time())
            try:
                return await trio.to_thread.run_sync(
                    work_in_thread, limiter=self._unlimited, abandon_on_cancel=True
                )
            except Exception as error:
                if began:
                    raise
                self._trouble.seen("calls of %s wait or fail: %s", queue, _NO_THREAD)
                raise NoThread(queue) from error
            finally:
                del self._under_way[call]
                self._ended.set()

    async def run_surely(self, queue: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function as ``run`` does, and try again as long as no thread can be started.

        For what nobody else would ever do, such as the release of a lock.

        :param queue: see ``run``.
        :param work: see ``run``.
        :param args: its positional arguments.
        :param kwargs: its keyword arguments.
        :returns: what the function returns. What it raises is raised here.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self.run(queue, work, *args, **kwargs)
            except NoThread:
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def may_look(self, queue: str) -> bool:
        """Return whether a call may begin that no client waits for, and that can as well be made later.

        If it hung, a live upgrade would wait for it. So it waits itself until what hangs has been answered.

        :param queue: see ``run``.
        :returns: False if a call of the queue hangs, or if a live upgrade waits for its turn.
        """
        return not self._upgrade_waits and queue not in self._hung()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Wait until no call is under way, and let none begin within the block. Used for a live upgrade.

        While this waits, new calls are delayed by ``_HUNG_SECONDS`` at most, and only when no call hangs. If
        a call then turns out to hang, new calls may begin again, and all this is repeated once the hung calls
        have returned.
        """
        self._upgrade_waits = True
        try:
            while True:
                await self._all_hung_ended()
                self._may_begin = trio.Event()
                with trio.move_on_after(_HUNG_SECONDS):
                    while self._under_way:
                        await self._next_end()
                if not self._under_way:
                    break
                self._may_begin.set()
            yield
        finally:
            self._upgrade_waits = False
            self._may_begin.set()

    async def _all_hung_ended(self) -> None:
        """Wait until no call hangs, and log the queues of those that do."""
        named: set[str] = set()
        while hung := self._hung():
            if not hung <= named:
                _logger.warning(
                    "the live upgrade waits for file systems that do not answer: %s", ", ".join(sorted(hung))
                )
                named |= hung
            await self._next_end()

    def _hung(self) -> set[str]:
        """Return the queues of the calls that hang."""
        latest = trio.current_time() - _HUNG_SECONDS
        return {queue for queue, began in self._under_way.values() if began <= latest}

    async def _next_end(self) -> None:
        """Wait until a call returns."""
        self._ended = trio.Event()
        await self._ended.wait()
