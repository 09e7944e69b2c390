"""Counters of the daemon's work since its start, for ``lockctl metrics``. They survive a live upgrade."""

from collections.abc import Mapping
from typing import Any, Final

LATENCY_CLASSES: Final = 64
"""The number of items in ``Counters.latencies``."""

_NAMES: Final = ("busy", "failed", "fenced", "latencies", "latency_sum", "upgrades")


class Counters:
    """All counters.

    :ivar latencies: the number of granted acquires, by their time in the daemon. Item ``n`` counts the
        acquires that took at least 2**(n-1) and less than 2**n nanoseconds. So the index is
        ``time.bit_length()``, which is quick to compute.
    :ivar latency_sum: the total time of all granted acquires, in nanoseconds.
    :ivar busy: the number of acquires that were refused because the lock was held already.
    :ivar failed: the number of acquires that were refused for another reason.
    :ivar fenced: the number of owners that were fenced.
    :ivar upgrades: the number of live upgrades.
    """

    __slots__ = _NAMES

    def __init__(self) -> None:
        self.latencies = [0] * LATENCY_CLASSES
        self.latency_sum = 0
        self.busy = 0
        self.failed = 0
        self.fenced = 0
        self.upgrades = 0

    def describe(self) -> dict[str, Any]:
        """Return the values of all counters, by their names."""
        return {name: getattr(self, name) for name in _NAMES}

    def adopt(self, values: Mapping[str, Any]) -> None:
        """Continue from the counters of the program before this one, and count one more live upgrade.

        :param values: what ``describe`` returned in the program before. A counter that is missing, or that has
            another form than here, keeps its value.
        """
        for name in _NAMES:
            value = values.get(name)
            if _is_like(value, getattr(self, name)):
                setattr(self, name, value)
        self.upgrades += 1


def _is_like(value: Any, present: int | list[int]) -> bool:
    if isinstance(present, list):
        return (
            isinstance(value, list)
            and len(value) == len(present)
            and all(isinstance(item, int) for item in value)
        )
    return isinstance(value, int)
