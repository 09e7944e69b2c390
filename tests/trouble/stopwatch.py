"""Measure how long a client waits for the daemon, without the waits for a processor on a busy machine."""

import time
from collections.abc import Callable
from pathlib import Path


class Stopwatch:
    """Measures the duration of calls that this thread makes to a daemon.

    The kernel counts for how long a runnable thread had no processor, in nanoseconds (run_delay in
    /proc/PID/schedstat; see sched-stats in the kernel's documentation). The stopwatch subtracts these delays
    of this thread and of the daemon's first thread.
    """

    def __init__(self, daemon_pid: int) -> None:
        self._delays = [Path("/proc/thread-self/schedstat"), Path(f"/proc/{daemon_pid}/schedstat")]

    def time(self, call: Callable[..., None], *arguments: object) -> float:
        """Make a call, and return its duration in seconds."""
        delayed = self.delayed()
        start = time.monotonic()
        call(*arguments)
        took = time.monotonic() - start
        return max(0.0, took - (self.delayed() - delayed))

    def delayed(self) -> float:
        """Return for how many seconds the two threads have waited for a processor since they began."""
        return sum(int(file.read_text().split()[1]) for file in self._delays) / 1e9
