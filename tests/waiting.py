"""Bounded waits for what other processes do."""

import os
import select
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Return once condition holds; for what the kernel sends no event for, such as a line in /proc/locks.

    Raises AssertionError that names what was waited for, after the given seconds.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.005)


def wait_for_end(pidfd: int, what: str, seconds: float = 15) -> None:
    """Return once the process of the given pidfd has ended; its descriptor stays open."""
    readable, _, _ = select.select([pidfd], [], [], seconds)
    assert readable, f"waited {seconds} s in vain: {what}"


def end_process(pid: int, signal_number: int, seconds: float = 15) -> None:
    """Send the signal to a process, which need not be a child, and return once it has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal_number)
        wait_for_end(pidfd, f"the end of process {pid} by signal {signal_number}", seconds)
    finally:
        os.close(pidfd)
