"""A limit on log messages.

A client that repeats a refused call must not fill the log or slow other clients down.
"""

import logging
from time import monotonic


class RateLimit:
    """Allows a number of messages per second, and logs how many were not allowed.

    :param logger: where that number is logged.
    :param what: the subject of the messages, as a noun in the plural: it completes "5 more ...".
    :param per_second: how many messages are allowed per second.
    """

    def __init__(self, logger: logging.Logger, what: str, per_second: int) -> None:
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
