"""A limit on messages: a client that repeats a refused call must not fill the log, nor slow the others down."""

import logging
from time import monotonic


class RateLimit:
    """Lets so many messages a second through, and says how many it did not.

    :param logger: where that is said.
    :param what: what the messages are about, as a noun in the plural.
    """

    def __init__(self, logger: logging.Logger, what: str, per_second: int) -> None:
        self._logger = logger
        self._what = what
        self._per_second = per_second
        self._second = 0
        self._seen = 0

    def allows(self) -> bool:
        """Whether one more message may be logged now."""
        second = int(monotonic())
        if second != self._second:
            withheld = self._seen - self._per_second
            self._second, self._seen = second, 0
            if withheld > 0:
                self._logger.error("%d more %s within a second were not logged", withheld, self._what)
        self._seen += 1
        return self._seen <= self._per_second
