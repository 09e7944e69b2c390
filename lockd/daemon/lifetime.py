"""How long the daemon runs: until it is told to stop, or has been idle for its timeout."""

import logging
from typing import Final

import trio

LOOK_SECONDS: Final = 1
"""How often ``Lifetime.look`` is to be called, in seconds."""

_logger = logging.getLogger(__name__)


class Lifetime:
    """Decides when the daemon ends.

    :param timeout: seconds without clients and locks after which the daemon ends, or None.
    :ivar timeout: the same; it may be set at any time.
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
        """Wait until the daemon is to end."""
        await self._stop.wait()

    @property
    def idle_seconds(self) -> float:
        """How long nobody has needed the daemon, in seconds."""
        return max(0.0, trio.current_time() - self._idle_from)

    def resume(self, idle_seconds: float, clients_seen: int) -> None:
        """Go on from the program before this one.

        :param idle_seconds: how long nobody had needed that one.
        :param clients_seen: how many clients have ever been connected.
        """
        self._idle_from = trio.current_time() - idle_seconds
        self._clients_seen = clients_seen

    def look(self, *, needed: bool, clients_seen: int) -> None:
        """Take note of whether the daemon is needed, and end it where it has been idle for its timeout.

        :param needed: whether there are clients or locks.
        :param clients_seen: how many clients have ever been connected. A client that has come and gone since the last
            look has needed the daemon too.
        """
        now = trio.current_time()
        came = clients_seen != self._clients_seen
        self._clients_seen = clients_seen
        if came or needed:
            # They may leave just before the next look, so the idle time cannot have begun before that.
            self._idle_from = now + LOOK_SECONDS
        elif self.timeout is not None and now - self._idle_from >= self.timeout:
            _logger.info("the daemon ends: it was idle for %d seconds", self.timeout)
            self.stop()
