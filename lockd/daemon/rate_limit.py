"""Limits on log messages.

A client that repeats a refused call must not fill the log or slow other clients down.
"""

import logging
from time import monotonic
from typing import Final

_MESSAGES_PER_SECOND: Final = 100
_FAULTS_PER_SECOND: Final = 5
"""How many messages of a kind are logged per second. A fault has a traceback of a hundred lines."""

_EPISODE_SECONDS: Final = 60.0


class RateLimit:
    """Allows a number of messages per second, and logs how many were not allowed.

    :param logger: where that number is logged.
    :param what: the subject of the messages, as a noun in the plural: it completes "5 more ...".
    :param per_second: how many messages are allowed per second.
    """

    def __init__(self, logger: logging.Logger, what: str, per_second: int = _MESSAGES_PER_SECOND) -> None:
        self._logger = logger
        self._what = what
        self._per_second = per_second
        self._second = 0
        self._seen = 0

    def allows(self) -> bool:
        """Count one message, and return whether it may be logged."""
        second = int(monotonic())
        if second != self._second:
            withheld = self._seen - self._per_second
            self._second, self._seen = second, 0
            if withheld > 0:
                self._logger.error("%d more %s within a second were not logged", withheld, self._what)
        self._seen += 1
        return self._seen <= self._per_second


faults: Final = RateLimit(logging.getLogger(__name__), "faults of the daemon", _FAULTS_PER_SECOND)
"""One limit for all faults, wherever the daemon meets them: exceptions, and errors of the system, that nothing but a bug
or a lack of memory explains."""


class Trouble:
    """Something that may go wrong for a while, such as a limit that is reached. It is logged once in an episode, as a warning.

    An episode ends when the trouble was not seen for a minute. So a limit that is reached again and again is one
    episode.

    :param logger: where it is logged.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._seen_at = -_EPISODE_SECONDS

    def seen(self, message: str, *arguments: object) -> None:
        """Log the trouble if this is a new episode. To be called as long as the trouble lasts.

        :param message: what is wrong, and what to do about it; the format of a log message.
        :param arguments: the arguments of the format.
        """
        now = monotonic()
        if now - self._seen_at >= _EPISODE_SECONDS:
            self._logger.warning(message, *arguments)
        self._seen_at = now
