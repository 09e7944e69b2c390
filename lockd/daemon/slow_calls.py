"""System calls that may block, each in a worker thread.

Each slow file system has its own few threads, so that one dead server cannot use up those of another
(Invariant 3). A live upgrade waits until none of them is busy: execve(2) waits for all other threads to end, and
one that waits for a hung server may end only when that answers. All clients would wait with it.
"""

import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, ParamSpec, TypeVar

import trio

T = TypeVar("T")
P = ParamSpec("P")

_THREADS_PER_MOUNT: Final = 16

_HUNG_SECONDS: Final = 1.0
"""A call that takes longer is one that nobody knows the end of."""

_logger = logging.getLogger(__name__)


class SlowCalls:
    """Runs what may block."""

    def __init__(self) -> None:
        self._limiters: dict[str, trio.CapacityLimiter] = {}
        # The number of threads is limited by mount; trio's own limit would be one for all.
        self._unlimited = trio.CapacityLimiter(math.inf)
        self._under_way: dict[object, tuple[str, float]] = {}
        self._ended = trio.Event()
        self._may_begin = trio.Event()
        self._may_begin.set()

    async def run(self, mount: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what may block on the file system at ``mount`` in a thread.

        A hung one is left behind when the daemon ends.
        """
        limiter = self._limiters.get(mount)
        if limiter is None:
            limiter = self._limiters[mount] = trio.CapacityLimiter(_THREADS_PER_MOUNT)
        async with limiter:
            while not self._may_begin.is_set():
                await self._may_begin.wait()
            call = object()
            self._under_way[call] = (mount, trio.current_time())
            try:
                return await trio.to_thread.run_sync(
                    partial(work, *args, **kwargs), limiter=self._unlimited, abandon_on_cancel=True
                )
            finally:
                del self._under_way[call]
                self._ended.set()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Let no call begin within the block, which a live upgrade is; wait until none is under way before.

        However long that takes, calls are held up for a second at most: only once all that hung have ended.
        """
        while True:
            await self._all_hung_ended()
            self._may_begin = trio.Event()
            with trio.move_on_after(_HUNG_SECONDS):
                while self._under_way:
                    await self._next_end()
            if not self._under_way:
                break
            self._may_begin.set()
        try:
            yield
        finally:
            self._may_begin.set()

    async def _all_hung_ended(self) -> None:
        named: set[str] = set()
        while hung := self._hung():
            if not hung <= named:
                _logger.warning(
                    "the live upgrade waits for file systems that do not answer: %s", ", ".join(sorted(hung))
                )
                named |= hung
            await self._next_end()

    def _hung(self) -> set[str]:
        """Return the mounts on which a call has not returned for so long that it may never do."""
        latest = trio.current_time() - _HUNG_SECONDS
        return {mount for mount, began in self._under_way.values() if began <= latest}

    async def _next_end(self) -> None:
        self._ended = trio.Event()
        await self._ended.wait()
