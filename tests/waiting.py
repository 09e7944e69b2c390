"""Wait for other processes, with a time limit."""

import os
import select
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Poll until a condition is true. For changes without an event from the kernel, such as in /proc/locks.

    After the given seconds, raises AssertionError with `what`, the description of the condition.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timed out after {seconds} s: {what}"
        time.sleep(0.005)


def wait_for_end(pidfd: int, what: str, seconds: float = 15) -> None:
    """Wait until the process of a pidfd has ended; the pidfd stays open."""
    readable, _, _ = select.select([pidfd], [], [], seconds)
    assert readable, f"timed out after {seconds} s: {what}"


def end_process(pid: int, signal_number: int, seconds: float = 15) -> None:
    """Send a signal to a process and wait until it has ended; it need not be a child."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal_number)
        wait_for_end(pidfd, f"the end of process {pid} by signal {signal_number}", seconds)
    finally:
        os.close(pidfd)
