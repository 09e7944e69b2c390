"""What the kernel says of a daemon's memory and descriptors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.private_daemon import PrivateDaemon
from tests.waiting import wait_until


def descriptors(daemon: PrivateDaemon) -> int:
    """How many descriptors the daemon has open."""
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def resident_bytes(daemon: PrivateDaemon) -> int:
    """How much of the daemon is in memory."""
    fields = Path(f"/proc/{daemon.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def nothing_left_behind(daemon: PrivateDaemon, more_bytes: int = 8 << 20) -> Iterator[None]:
    """After the block descriptors are as many as before, and memory is, but for a constant."""
    before, memory = descriptors(daemon), resident_bytes(daemon)
    yield
    wait_until(lambda: descriptors(daemon) <= before, f"the daemon has {before} descriptors again")
    assert resident_bytes(daemon) <= memory + more_bytes
