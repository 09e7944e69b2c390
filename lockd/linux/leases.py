"""Leases on files (fcntl(2), F_SETLEASE): who has one is asked to give it up before somebody else opens the file."""

import math
from pathlib import Path
from typing import Final

_BREAK_TIME: Final = Path("/proc/sys/fs/lease-break-time")

_DEFAULT_SECONDS: Final = 45.0


def break_seconds() -> float:
    """Return for how many seconds a lease lasts at most, once the kernel has asked for it.

    :returns: the seconds; infinite where the kernel takes no lease away.
    """
    try:
        seconds = float(_BREAK_TIME.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _DEFAULT_SECONDS
    return seconds or math.inf
