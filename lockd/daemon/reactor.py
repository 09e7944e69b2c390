"""The reactor: one trio task that serves every descriptor that is ready.

It waits for an epoll descriptor of its own, and then serves all connections that are ready, one after the
other. Under load this halves the cost of a call, compared with one task per connection (measured). Signals,
timers and worker threads are ordinary trio tasks beside it.
"""

import logging
import os
import select
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Final

import trio

from lockd.daemon.rate_limit import Trouble, faults

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
HUNG_UP: Final = select.EPOLLHUP | select.EPOLLERR
"""Reported for every watched descriptor, even if not asked for (epoll_ctl(2))."""

_EAGER_POLLS: Final = 40
"""How many times to poll without sleeping before the daemon waits for the next call. A poll takes about a
microsecond. Some clients send the next call at once; then going to sleep and being woken would cost more than
the call itself (measured: 54 µs a call instead of 37)."""

_LINGER: Final = 0.005
"""How many seconds to wait in epoll_wait(2) after that, before control goes back to trio. One round of trio's
scheduler costs more than an epoll_wait. Other tasks are delayed by this time at most. A wait that is shorter
than the kernel's tick would cost more, as the kernel would set a timer for every call (measured: 35 µs a call
instead of 27)."""

_PATIENCE: Final = (*[0.0] * _EAGER_POLLS, _LINGER)
_AT_ONCE: Final = (0.0,)
"""The timeouts of the polls for the next events, in seconds: with waiting, and without."""

_SLICE: Final = 0.005
"""After how many seconds of serving the other tasks get a turn, even if more descriptors are ready."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
"""How many seconds a descriptor is not watched after its watcher has failed: at first, and at most. The pause
doubles with each failure."""

_logger = logging.getLogger(__name__)
_sleepless = Trouble(_logger)


class Watcher:
    """Callback for a descriptor that is ready.

    It is a base class and not a function, so that compiled code calls the method directly, and no bound
    method is kept for each of thousands of descriptors.
    """

    __slots__ = ()

    def on_ready(self, ready: int) -> None:
        """Serve the descriptor; this must not block.

        :param ready: the events that are ready, as a bit mask of ``READABLE``, ``WRITABLE`` and ``HUNG_UP``.
        """
        raise NotImplementedError


class FunctionWatcher(Watcher):
    """Calls a function when a descriptor is ready.

    :param function: the function. Its argument is the bit mask of the events that are ready.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[int], None]) -> None:
        self._function = function

    def on_ready(self, ready: int) -> None:
        """Call the function. See ``Watcher.on_ready``."""
        self._function(ready)


class Flushable(Watcher):
    """A watcher that collects its output until the end of a turn."""

    __slots__ = ()

    def flush(self) -> None:
        """Send the collected output; this must not block."""
        raise NotImplementedError


class _Failure:
    """The failures of a watcher.

    :ivar events: the events to watch for after the pause.
    :ivar seconds: how long the present pause is, or the last one was.
    :ivar until: when the pause ends, by ``monotonic``.
    :ivar pauses: whether there is a pause now.
    """

    __slots__ = ("events", "pauses", "seconds", "until")

    def __init__(self) -> None:
        self.events = READABLE
        self.seconds = 0.0
        self.until = 0.0
        self.pauses = False

    def pause(self) -> None:
        """Begin a pause, twice as long as the last one if that was not long ago."""
        now = monotonic()
        if now - self.until > _LONGEST_PAUSE:
            self.seconds = 0.0
        self.seconds = min(2 * self.seconds or _FIRST_PAUSE, _LONGEST_PAUSE)
        self.until = now + self.seconds
        self.pauses = True


class Reactor:
    """Watches descriptors, and calls the watcher of each one that is ready.

    An exception in a callback is logged, and ends nothing: all locks would end with the daemon. If a watcher
    fails, its descriptor is not watched for some time, as it may stay ready for ever (``retry``).

    In one turn, all descriptors that are ready are served; then the collected output is sent. Turns follow
    one another without a pause until nothing is ready, or until ``_SLICE`` seconds have passed.

    :param before_serving: called before such a series of turns, under load every few milliseconds. It must
        not block.
    """

    def __init__(self, before_serving: Callable[[], None]) -> None:
        self._before_serving = before_serving
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        self._leftover: dict[Callable[[], None], None] = {}
        self._forgotten: set[int] = set()
        self._failures: dict[int, _Failure] = {}
        self._unsent: list[Flushable] = []
        self._cannot_poll = False
        self._waits = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._wake, READABLE, FunctionWatcher(self._on_wake))

    def watch(self, fd: int, events: int, watcher: Watcher) -> None:
        """Begin to watch a descriptor.

        :param fd: the descriptor. It stays the caller's. Before it is closed, ``forget`` has to be called.
        :param events: the events to report, as a bit mask of ``READABLE`` and ``WRITABLE``. ``HUNG_UP`` is
            always reported.
        :param watcher: is called whenever an event is ready.
        :raises OSError: the descriptor cannot be watched (epoll_ctl(2)).
        """
        self._epoll.register(fd, events)
        self._watchers[fd] = watcher

    def watches(self, fd: int) -> bool:
        """Return whether a descriptor is watched.

        :param fd: the descriptor.
        :returns: whether ``watch`` was called for it, and ``forget`` was not.
        """
        return fd in self._watchers

    def change(self, fd: int, events: int) -> None:
        """Change the events that are reported for a descriptor.

        :param fd: the watched descriptor.
        :param events: the events to report from now on, as for ``watch``. With 0, only ``HUNG_UP`` is
            reported.
        :raises OSError: the descriptor is not watched (epoll_ctl(2)).
        """
        failure = self._failures.get(fd)
        if failure is not None:
            failure.events = events
            if failure.pauses:
                return
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor.

        Call this before the descriptor is closed: the kernel may give its number to another file at once.

        :param fd: the watched descriptor.
        :raises KeyError: the descriptor is not watched.
        """
        del self._watchers[fd]
        self._forgotten.add(fd)
        failure = self._failures.pop(fd, None)
        if failure is None or not failure.pauses:
            self._epoll.unregister(fd)

    def pause(self, fd: int, events: int) -> None:
        """Stop watching a descriptor until ``retry`` is called.

        For one that cannot be served now, although it is ready: it would be reported without end.

        :param fd: the watched descriptor.
        :param events: the events to report after the pause, as for ``watch``.
        """
        failure = self._failures.setdefault(fd, _Failure())
        failure.events = events
        if not failure.pauses:
            failure.pauses = True
            failure.until = monotonic()
            with suppress(OSError):
                self._epoll.unregister(fd)

    def retry(self) -> None:
        """Watch the descriptors again whose pauses are over."""
        for fd, failure in list(self._failures.items()):
            if failure.pauses and monotonic() >= failure.until:
                try:
                    self._epoll.register(fd, failure.events)
                    failure.pauses = False
                except OSError:
                    failure.pause()

    def again(self, serve: Callable[[], None]) -> None:
        """Call a function in the next turn, even if no descriptor is ready.

        Used for work that would take too long in one turn.

        :param serve: the function. It is called once, even if this method is called for it several times
            before.
        """
        self._leftover[serve] = None
        if self._waits:
            # Another task calls this while the reactor sleeps. No descriptor may be ready for a long time:
            # wake it.
            with suppress(BlockingIOError):  # it is woken already
                os.eventfd_write(self._wake, 1)

    def _on_wake(self, _ready: int) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def flush_later(self, connection: Flushable) -> None:
        """Call ``flush`` of a connection at the end of this turn.

        :param connection: the connection.
        """
        self._unsent.append(connection)

    async def run(self) -> None:
        """Serve all watched descriptors until cancelled."""
        while True:
            await self._wait()
            try:
                self._before_serving()
            except Exception:
                _report("what comes before serving failed")
            end = monotonic() + _SLICE
            while self._turn() and monotonic() < end:
                pass

    async def _wait(self) -> None:
        """Wait until there is something to do."""
        if self._cannot_poll:
            self._cannot_poll = False
            await trio.sleep(_LINGER)
        elif self._leftover:
            await trio.lowlevel.checkpoint()
        else:
            self._waits = True
            try:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
            except OSError as error:
                # trio watches the descriptor in an epoll of its own, which may fail: memory or
                # fs.epoll.max_user_watches has run out (epoll_ctl(2)). This epoll can be polled all the same.
                self._cannot_poll = True
                _sleepless.seen(
                    "the daemon cannot sleep until it is called, and polls instead: %s; raise "
                    "fs.epoll.max_user_watches (sysctl), or give the host more memory",
                    os.strerror(error.errno or 0),
                )
            finally:
                self._waits = False

    def _poll(self, timeouts: Iterable[float]) -> list[tuple[int, int]]:
        try:
            for timeout in timeouts:
                events = self._epoll.poll(timeout)
                if events:
                    return events
        except Exception:
            self._cannot_poll = True
            _report("the descriptors cannot be polled")
        return []

    def _turn(self) -> bool:
        """Serve all descriptors that are ready. Return whether there was anything to do."""
        leftover, self._leftover = self._leftover, {}
        events = self._poll(_AT_ONCE if leftover else _PATIENCE)
        self._serve(events)
        if len(events) > 1:
            # Most clients that got a reply at the end of the last turn have sent their next call by now. A
            # second poll finds these calls too, so that they are served before a reply wakes the first client
            # (measured: 3 % more calls with 16 clients). With a single client it would only delay the reply.
            self._serve(self._poll(_AT_ONCE))
        for serve in leftover:
            try:
                serve()
            except Exception:
                _report("work that was left over failed")
        if self._unsent:
            unsent, self._unsent = self._unsent, []
            for connection in unsent:
                try:
                    connection.flush()
                except Exception:
                    _report("output could not be sent")
        return bool(events or leftover)

    def _serve(self, events: list[tuple[int, int]]) -> None:
        self._forgotten.clear()
        for fd, ready in events:
            # A watcher that was called before may have closed the descriptor; its number may be another
            # file's now.
            if fd in self._forgotten:
                continue
            try:
                self._watchers[fd].on_ready(ready)
            except Exception:
                self._pause(fd)

    def _pause(self, fd: int) -> None:
        """Stop watching a descriptor for a while, as its watcher has just failed.

        The descriptor may stay ready; the reactor would call the watcher without end.
        """
        if fd not in self._watchers:
            _report(f"descriptor {fd} could not be served; it is closed")
            return
        failure = self._failures.get(fd)
        if failure is None:
            failure = self._failures[fd] = _Failure()
        failure.pause()
        _report(f"descriptor {fd} could not be served; it is tried again after {failure.seconds:.0f} s")
        with suppress(OSError):
            self._epoll.unregister(fd)


def _report(what: str) -> None:
    """Log the exception that is being handled. The number of these messages per second is limited."""
    if faults.allows():
        _logger.exception(what)
