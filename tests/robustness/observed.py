"""A daemon's memory and descriptors, read from /proc."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.private_daemon import PrivateDaemon
from tests.waiting import wait_until


def descriptors(daemon: PrivateDaemon) -> int:
    """Return how many descriptors the daemon has open."""
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def resident_bytes(daemon: PrivateDaemon) -> int:
    """Return the resident memory of the daemon."""
    fields = Path(f"/proc/{daemon.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def nothing_left_behind(daemon: PrivateDaemon, more_bytes: int = 8 << 20) -> Iterator[None]:
    """Assert that the context leaves no descriptor open, and at most `more_bytes` more of resident memory."""
    before, memory = descriptors(daemon), resident_bytes(daemon)
    yield
    wait_until(lambda: descriptors(daemon) <= before, f"the daemon has {before} descriptors again")
    assert resident_bytes(daemon) <= memory + more_bytes
