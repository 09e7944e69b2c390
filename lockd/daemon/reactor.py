"""The reactor: one trio task that serves every descriptor that is ready.

It waits for its own epoll descriptor and then serves all connections that are ready, one after the other.
Measured, that halves the cost of a call under load against a task per connection. Signals, timers and worker
threads are ordinary trio tasks beside it.
"""

import logging
import os
import select
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

import trio

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
HUNG_UP: Final = select.EPOLLHUP | select.EPOLLERR
"""Always reported, asked for or not (epoll_ctl(2))."""

_EAGER_POLLS: Final = 40
"""How often to ask for the next call without sleeping, about a microsecond each. For a client that calls again at
once, going to sleep and being woken costs more than the call (measured: 54 µs a call instead of 37)."""

_LINGER: Final = 0.005
"""Seconds to wait for the next call then, before going back to trio, whose scheduler's round costs more than an
epoll_wait; what else is due waits for this long at most. A wait shorter than the kernel's tick costs more: it sets
a timer for every call (measured: 35 µs a call instead of 27)."""

_PATIENCE: Final = (*[0.0] * _EAGER_POLLS, _LINGER)

_AT_ONCE: Final = (0.0,)

_SLICE: Final = 0.005
"""Seconds of serving after which the other tasks get their turn, however much there is to serve."""

_logger = logging.getLogger(__name__)


class Watcher:
    """What is told that a descriptor is ready.

    Compiled code calls a class's method directly, and needs no bound method for each of thousands of descriptors.
    """

    __slots__ = ()

    def on_ready(self, ready: int) -> None:
        """Serve the descriptor; this must not block.

        :param ready: the events that are ready on it.
        """
        raise NotImplementedError


class FunctionWatcher(Watcher):
    """Tells a function."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[int], None]) -> None:
        self._function = function

    def on_ready(self, ready: int) -> None:
        """Call the function with the events."""
        self._function(ready)


class Flushable(Watcher):
    """What collects output until a turn ends."""

    __slots__ = ()

    def flush(self) -> None:
        """Send it."""
        raise NotImplementedError


class Reactor:
    """Watches descriptors and tells their watchers.

    :param before_serving: called before anybody is served, every few milliseconds.
    """

    def __init__(self, before_serving: Callable[[], None]) -> None:
        self._before_serving = before_serving
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        self._leftover: dict[Callable[[], None], None] = {}
        self._forgotten: set[int] = set()
        self._unsent: list[Flushable] = []
        self._waits = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._wake, READABLE, FunctionWatcher(self._on_wake))

    def watch(self, fd: int, events: int, watcher: Watcher) -> None:
        """Tell ``watcher`` whenever one of ``events`` is ready on ``fd``.

        :raises OSError: the descriptor cannot be watched (epoll_ctl(2)).
        """
        self._epoll.register(fd, events)
        self._watchers[fd] = watcher

    def change(self, fd: int, events: int) -> None:
        """Watch for other events from now on. Without any, only a hang-up is reported."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Watch ``fd`` no more; before it is closed, as its number may be another file's at once."""
        del self._watchers[fd]
        self._epoll.unregister(fd)
        self._forgotten.add(fd)

    def again(self, serve: Callable[[], None]) -> None:
        """Call ``serve`` in the next turn: it has more to do than one turn allows."""
        self._leftover[serve] = None
        if self._waits:
            # Another task asks, while no descriptor may be ready for a long time.
            os.eventfd_write(self._wake, 1)

    def _on_wake(self, _ready: int) -> None:
        os.eventfd_read(self._wake)

    def flush_later(self, connection: Flushable) -> None:
        """Flush ``connection`` when all that is ready in this turn has been served."""
        self._unsent.append(connection)

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            if self._leftover:
                await trio.lowlevel.checkpoint()
            else:
                self._waits = True
                try:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                finally:
                    self._waits = False
            self._before_serving()
            end = monotonic() + _SLICE
            while self._turn() and monotonic() < end:
                pass

    def _poll(self, timeouts: Iterable[float]) -> list[tuple[int, int]]:
        for timeout in timeouts:
            events = self._epoll.poll(timeout)
            if events:
                return events
        return []

    def _turn(self) -> bool:
        """Serve all that is ready once; return whether anything was."""
        leftover, self._leftover = self._leftover, {}
        events = self._poll(_AT_ONCE if leftover else _PATIENCE)
        self._serve(events)
        if len(events) > 1:
            # Of those who got their replies at the end of the last turn, most have called by now: all are served
            # before the first is woken by a reply (measured: 3 % more calls with 16 clients). Who calls alone
            # would wait for it.
            self._serve(self._epoll.poll(0))
        for serve in leftover:
            serve()
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            for connection in unsent:
                connection.flush()
        return bool(events or leftover)

    def _serve(self, events: list[tuple[int, int]]) -> None:
        self._forgotten.clear()
        for fd, ready in events:
            # An earlier watcher of this turn may have closed the descriptor, and its number may be another's.
            if fd in self._forgotten:
                continue
            try:
                self._watchers[fd].on_ready(ready)
            except Exception:
                # A fault of one watcher must not end the daemon, and all locks with it.
                _logger.exception("descriptor %d could not be served", fd)
