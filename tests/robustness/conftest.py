"""Fixture: a daemon that holds a lock on one disk, and has to keep it whatever a test does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.raw_client import RawClient


class Guard:
    """A daemon that holds a lock on a disk, and the client that has acquired it."""

    def __init__(self, daemon: PrivateDaemon, disk: Path, client: RawClient) -> None:
        self.daemon = daemon
        self.disk = disk
        self.client = client

    def check(self) -> None:
        """Assert that the lock is still held, and that the daemon answers the old client and a new one."""
        assert locks_on(self.disk) == [KernelLock("WRITE", self.daemon.pid)]
        busy = f"resource busy: Lockspace resource '{self.disk}' is locked by domain \"vm1\" (pid 4000001)"
        with RawClient(self.daemon) as newcomer:
            assert [client.acquire(self.disk) for client in (self.client, newcomer)] == [busy, busy]


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    directory = tmp_path_factory.mktemp("guard")
    disk = directory / "disk"
    disk.write_bytes(b"")
    with (
        private_daemon(directory / "daemon", settings="max_clients = 20000\n") as daemon,
        RawClient(daemon) as client,
    ):
        assert client.acquire(disk) is None
        yield Guard(daemon, disk, client)
