"""Calls that have to wait for other processes.

In virtlockd all clients wait, because it has one thread. In lockd only the client waits that made the call.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lockd.wire import lock
from lockd.wire.lock import Procedure
from tests.differences.conftest import Scene
from tests.differential import pair
from tests.kernel_locks import KernelLock, locks_on
from tests.lease import Lease
from tests.private_daemon import LOCKD, VIRTLOCKD, private_daemon
from tests.raw_client import RawClient
from tests.waiting import wait_until

SOON = 0.5


@contextmanager
def waiting_for_a_lease(scene: Scene) -> Iterator[tuple[RawClient, Lease]]:
    """Yield a client that has asked for a lock on a file with a lease, and that lease."""
    lease = Lease(scene.disk("leased"))
    try:
        with RawClient(scene.daemon) as client:
            arguments = lock.encode_resource("", str(lease.path))
            client.socket.sendall(client.frame(Procedure.ACQUIRE_RESOURCE, arguments))
            wait_until(lambda: lease.asked_back, "the kernel asks for the lease")
            yield client, lease
    finally:
        lease.close()


def test_virtlockd_lets_everybody_wait_for_a_lease(virtlockd: Scene) -> None:
    other = virtlockd.disk("other")
    with waiting_for_a_lease(virtlockd) as (client, lease):
        virtlockd.client.socket.settimeout(SOON)
        with pytest.raises(TimeoutError):
            virtlockd.client.acquire(other)
        lease.give_up()
        assert client.reply() is None


def test_only_who_asks_for_the_file_waits_for_its_lease(lockd: Scene) -> None:
    other = lockd.disk("other")
    with waiting_for_a_lease(lockd) as (client, lease):
        assert lockd.client.acquire(other) is None
        busy = f"Lockspace resource '{lease.path}' is locked being acquired by domain"
        assert busy in (lockd.client.acquire(lease.path) or "")
        lease.give_up()
        assert client.reply() is None
        assert locks_on(lease.path) == [KernelLock("WRITE", lockd.daemon.pid)]


@contextmanager
def standard_error_that_nobody_reads(directory: Path, program: Path) -> Iterator[RawClient]:
    """Yield a client of a daemon that logs to a pipe that nobody reads."""
    pipe = directory / "standard error"
    os.mkfifo(pipe)
    configuration = directory / "virtlockd.conf"
    configuration.write_text('log_outputs = "3:stderr"\n')
    # The shell drops the --config that private_daemon adds.
    wrapper = ("sh", "-c", f'exec "$1" --config "{configuration}" 2>"{pipe}"', "sh")
    reader = os.open(pipe, os.O_RDWR)
    try:
        with (
            private_daemon(directory / "daemon", program, wrapper=wrapper) as daemon,
            RawClient(daemon, patience=SOON) as client,
        ):
            yield client
    finally:
        os.close(reader)


def _complain(client: RawClient) -> None:
    for _ in range(4):
        client.acquire(f"/{'x' * 60_000}")


def test_virtlockd_waits_until_somebody_reads_its_standard_error(tmp_path: Path) -> None:
    if reason := pair.missing():
        pytest.skip(reason)
    with standard_error_that_nobody_reads(tmp_path, VIRTLOCKD) as client, pytest.raises(TimeoutError):
        _complain(client)


def test_nobody_waits_for_a_standard_error_that_nobody_reads(tmp_path: Path) -> None:
    with standard_error_that_nobody_reads(tmp_path, LOCKD) as client:
        client.socket.settimeout(15)
        _complain(client)
