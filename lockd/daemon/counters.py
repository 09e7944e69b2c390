"""Counters: what the daemon has done since it was started, for ``lockctl metrics``. They survive an upgrade."""

from collections.abc import Mapping
from typing import Any, Final

LATENCY_CLASSES: Final = 64
_NAMES: Final = ("busy", "failed", "fenced", "latencies", "latency_sum", "upgrades")


class Counters:
    """All counters.

    :ivar latencies: granted acquires, counted by their time in the daemon: in place ``n`` those of less than
        2**n nanoseconds, and not less than half of that. The class is ``time.bit_length()``: counting must not
        take time from what it counts.
    :ivar latency_sum: the time of them all, in nanoseconds.
    :ivar busy: acquires that were refused because somebody held the resource.
    :ivar failed: acquires that were refused for another reason.
    :ivar fenced: owners that were killed for their locks.
    :ivar upgrades: how often the program was replaced while it served.
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
        """Return all counters."""
        return {name: getattr(self, name) for name in _NAMES}

    def adopt(self, told: Mapping[str, Any]) -> None:
        """Go on from the counters of the program before this one, as far as they are what this one counts."""
        for name in _NAMES:
            value = told.get(name)
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
