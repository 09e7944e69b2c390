"""A refusal names the holder of the lock, if this host can know it. virsh shows that message to its user."""

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lock_fixtures import loop_device
from tests.private_daemon import PrivateDaemon
from tests.raw_client import NOBODY, SHARED, RawClient
from tests.trouble.hanging_filesystem import HangingFilesystem

HOLD = """
import ctypes, fcntl, sys
ctypes.CDLL(None).prctl(15, sys.argv[2].encode())  # PR_SET_NAME
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def process_that_holds(disk: Path, name: str) -> Iterator[int]:
    """Run a process with the given name that holds a lock on the disk, and yield its pid."""
    with subprocess.Popen(
        [sys.executable, "-IS", "-c", HOLD, str(disk), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield process.pid


@pytest.fixture
def client(daemon: PrivateDaemon) -> Iterator[RawClient]:
    with RawClient(daemon) as client:
        yield client


def busy(disk: Path, who: str) -> str:
    return f"resource busy: Lockspace resource '{disk}' is locked by {who}"


def test_a_guest_is_named(daemon: PrivateDaemon, client: RawClient, disk: Path) -> None:
    with RawClient(daemon, NOBODY + 1, name="web server") as other:
        assert other.acquire(disk) is None
        expected = busy(disk, f'domain "web server" (pid {NOBODY + 1})')
        assert client.acquire(disk) == expected
        assert client.acquire(disk, flags=SHARED) == expected
        assert client.create(disk) == expected
        assert client.delete(disk) == expected
    # The connection of `other` has ended, but the lock stays until its process is dead.
    assert client.acquire(disk) == expected


def test_the_first_three_owners_of_a_shared_lock_are_named(
    daemon: PrivateDaemon, client: RawClient, disk: Path
) -> None:
    for number in range(1, 4):
        with RawClient(daemon, NOBODY + number, name=f"vm{number}") as other:
            assert other.acquire(disk, flags=SHARED) is None
    three = ", ".join(f'domain "vm{number}" (pid {NOBODY + number})' for number in range(1, 4))
    assert client.acquire(disk) == busy(disk, three)
    for number in range(4, 6):
        with RawClient(daemon, NOBODY + number, name=f"vm{number}") as other:
            assert other.acquire(disk, flags=SHARED) is None
    assert client.acquire(disk) == busy(disk, f"{three} and 2 more")


def test_a_process_outside_is_named(client: RawClient, disk: Path) -> None:
    with process_that_holds(disk, "qemu-img") as pid:
        assert client.acquire(disk) == busy(disk, f"process qemu-img (pid {pid})")


def test_the_device_or_file_with_the_same_data_is_named(client: RawClient, tmp_path: Path) -> None:
    """Its path cannot put a second line into the message either."""
    file = tmp_path / "disk\nof another"
    file.write_bytes(bytes(1 << 20))
    with loop_device(file) as device:
        assert client.acquire(file) is None
        path = f"{tmp_path}/disk\\x0aof another"
        assert client.acquire(device) == busy(
            device, f'domain "vm1" (pid {NOBODY}), through {path}, which it is on'
        )
        assert client.release(file) is None
        assert client.acquire(device) is None
        assert (client.delete(file) or "").endswith(
            f'by domain "vm1" (pid {NOBODY}), through {device}, which is on it'
        )
        assert client.create(file) is None
        assert client.release(device) is None


def test_a_process_cannot_put_a_second_line_into_the_message(client: RawClient, disk: Path) -> None:
    with process_that_holds(disk, "qemu\nall well") as pid:
        assert client.acquire(disk) == busy(disk, rf"process qemu\x0aall well (pid {pid})")


def test_the_daemon_names_itself(daemon: PrivateDaemon, client: RawClient) -> None:
    if os.geteuid() != 0:
        pytest.skip("an ordinary user's daemon has its pid file elsewhere")
    assert client.acquire("/run/virtlockd.pid") == busy(Path("/run/virtlockd.pid"), "the daemon itself")


def test_an_open_file_description_lock_is_not_taken_for_another_hosts(client: RawClient, disk: Path) -> None:
    """Such a lock has no pid (F_OFD_SETLK in fcntl(2)). But on a local file system no other host can lock."""
    flock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    with disk.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, flock)
        assert client.acquire(disk) == busy(disk, "a process of this host that the kernel does not name")


def test_another_host_is_named_as_the_holder(filesystem: HangingFilesystem, client: RawClient) -> None:
    disk = filesystem.path / "disk"
    disk.write_bytes(b"")
    filesystem.lock_elsewhere("disk")
    assert client.acquire(disk) == busy(disk, "another host")


def test_a_process_outside_is_named_on_a_network_file_system_too(
    filesystem: HangingFilesystem, client: RawClient
) -> None:
    disk = filesystem.path / "disk"
    disk.write_bytes(b"")
    with process_that_holds(disk, "qemu-img") as pid:
        assert client.acquire(disk) == busy(disk, f"process qemu-img (pid {pid})")
