"""The lifetime of the daemon: it ends when it is told to stop, or when it has been idle for its timeout."""

import logging
from typing import Final

import trio

LOOK_SECONDS: Final = 1
"""Seconds between two calls of ``Lifetime.look``."""

_logger = logging.getLogger(__name__)


class Lifetime:
    """Decides when the daemon ends.

    :param timeout: how many seconds without clients and locks end the daemon; None if it never ends for that
        reason.
    :ivar timeout: the same. It may be changed at any time.
    """

    def __init__(self, timeout: int | None) -> None:
        self.timeout = timeout
        self._stop = trio.Event()
        self._idle_from = trio.current_time()
        self._clients_seen = -1

    def stop(self) -> None:
        """End the daemon."""
        self._stop.set()

    async def wait(self) -> None:
        """Wait until the daemon has to end."""
        await self._stop.wait()

    @property
    def idle_seconds(self) -> float:
        """How many seconds there have been no clients and no locks."""
        return max(0.0, trio.current_time() - self._idle_from)

    def resume(self, idle_seconds: float, clients_seen: int) -> None:
        """Continue from the program before this one, after a live upgrade.

        :param idle_seconds: ``idle_seconds`` of that program.
        :param clients_seen: how many clients have ever connected.
        """
        self._idle_from = trio.current_time() - idle_seconds
        self._clients_seen = clients_seen

    def look(self, *, needed: bool, clients_seen: int) -> None:
        """Update the idle time, and end the daemon if it has been idle for its timeout.

        :param needed: whether there are clients or locks.
        :param clients_seen: how many clients have ever connected. If the number has changed since the last
            call, the daemon was not idle, even if all clients have left again.
        """
        now = trio.current_time()
        came = clients_seen != self._clients_seen
        self._clients_seen = clients_seen
        if came or needed:
            # The clients may stay until just before the next call. So the idle time begins with the next call
            # at the earliest.
            self._idle_from = now + LOOK_SECONDS
        elif self.timeout is not None and now - self._idle_from >= self.timeout:
            _logger.info("the daemon ends: it was idle for %d seconds", self.timeout)
            self.stop()
