"""How long a client waits for the daemon: not for a processor, which other load on the machine may keep busy."""

import time
from collections.abc import Callable
from pathlib import Path


class Stopwatch:
    """Times the calls that this thread makes to a daemon.

    The kernel tells for how long a thread that could run had no processor (run_delay in /proc/PID/schedstat,
    nanoseconds, sched-stats in the kernel's documentation). That is subtracted, for both ends.
    """

    def __init__(self, daemon_pid: int) -> None:
        self._delays = [Path("/proc/thread-self/schedstat"), Path(f"/proc/{daemon_pid}/schedstat")]

    def time(self, call: Callable[..., None], *arguments: object) -> float:
        """Make a call; seconds that it took."""
        delayed = self._delayed()
        start = time.monotonic()
        call(*arguments)
        took = time.monotonic() - start
        return max(0.0, took - (self._delayed() - delayed))

    def _delayed(self) -> float:
        return sum(int(file.read_text().split()[1]) for file in self._delays) / 1e9
