"""Files that the daemon opens and closes itself while it runs.

Closing one ends all locks of the process on it (fcntl(2)), and nobody notices (Invariant 1).
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd.client.status import StatusConnection
from lockd.daemon.server import LOCK_SERVER
from lockd.locks.resource import LOST
from lockd.wire.admin import Procedure
from tests.admin.raw_admin import RawAdmin, arguments, client
from tests.differences.conftest import Scene
from tests.handover.program import upgrade
from tests.kernel_locks import locks_of
from tests.raw_client import AUTOCREATE, RawClient

MADE_UP = "it is a file that the kernel makes up, and no disk"
ACCOUNT_FILES = ("passwd", "group", "nsswitch.conf")


def locked(daemon_pid: int, path: Path) -> bool:
    """Return whether the daemon has a lock on a file."""
    status = path.stat()
    return (status.st_dev, status.st_ino) in locks_of(daemon_pid)


# Files of the kernel


def test_virtlockd_loses_its_lock_on_a_file_of_proc(virtlockd: Scene) -> None:
    own = Path(f"/proc/{os.getpid()}/stat")
    assert virtlockd.client.acquire(own) is None
    assert locks_of(virtlockd.daemon.pid)[own.stat().st_dev, own.stat().st_ino] == "WRITE"
    pid_file = virtlockd.daemon.run_directory / "virtlockd.pid"
    with RawClient(virtlockd.daemon):
        status = pid_file.stat()
        assert list(locks_of(virtlockd.daemon.pid)) == [(status.st_dev, status.st_ino)]


def made_up(directory: Path) -> Iterator[str]:
    yield "/proc/self/mountinfo"
    yield "/proc/sys/fs/lease-break-time"
    yield "/sys/devices/system/cpu/online"
    yield "/proc/self/ns/pid"
    yield from map(str, list(Path("/sys/fs/cgroup").rglob("pids.max"))[:1])
    link = directory / "link"
    link.symlink_to("/proc/mounts")
    yield str(link)


def test_a_file_that_the_kernel_makes_up_is_refused(lockd: Scene) -> None:
    client = lockd.client
    for path in made_up(lockd.directory):
        assert client.acquire(path) == f"Unable to open resource {path}: {MADE_UP}"
        assert client.acquire(path, flags=AUTOCREATE) == f"Unable to open/create resource {path}: {MADE_UP}"
        assert client.create(path) == f"cannot create file '{path}': {MADE_UP}"
    assert client.acquire(lockd.disk()) is None


def test_a_file_system_of_the_kernel_is_known_as_soon_as_it_is_mounted(lockd: Scene) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    point = lockd.directory / "point"
    point.mkdir()
    assert lockd.client.acquire(lockd.disk()) is None
    lockd.daemon.run_inside("mount", "-t", "proc", "proc", str(point))
    assert MADE_UP in (lockd.client.acquire(point / "uptime") or "")


# Files of accounts


def lock_account_files(scene: Scene) -> list[Path]:
    """Put copies in place of these files, and lock them."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    files = []
    for name in ACCOUNT_FILES:
        file = Path(shutil.copy(f"/etc/{name}", scene.directory))
        scene.daemon.run_inside("mount", "--bind", str(file), f"/etc/{name}")
        assert scene.client.acquire(f"/etc/{name}") is None
        assert locked(scene.daemon.pid, file)
        files.append(file)
    return files


def client_info(scene: Scene) -> bytes:
    with RawAdmin(scene.daemon.admin_socket) as admin:
        return admin.result(Procedure.CLIENT_GET_INFO, arguments(client(LOCK_SERVER, 2), 0))


def test_virtlockd_loses_its_locks_on_the_files_of_accounts(virtlockd: Scene) -> None:
    files = lock_account_files(virtlockd)
    assert b"unix_group_name" in client_info(virtlockd)
    assert not any(locked(virtlockd.daemon.pid, file) for file in files)


def test_the_locks_on_the_files_of_accounts_stay(lockd: Scene) -> None:
    files = lock_account_files(lockd)
    info = client_info(lockd)
    assert info.count(arguments("root")) == 2  # the names of the user and of the group
    assert all(locked(lockd.daemon.pid, file) for file in files)


# Files that the next program opens when it starts


def test_virtlockd_loses_its_lock_on_its_configuration_when_it_is_replaced(virtlockd: Scene) -> None:
    configuration = virtlockd.daemon.directory / "virtlockd.conf"
    assert virtlockd.client.acquire(configuration) is None
    upgrade(virtlockd.daemon)
    assert not locked(virtlockd.daemon.pid, configuration)


def test_a_lock_that_the_start_of_the_next_program_ends_is_taken_again(lockd: Scene) -> None:
    configuration = lockd.daemon.directory / "virtlockd.conf"
    assert lockd.client.acquire(configuration) is None
    upgrade(lockd.daemon)
    assert locked(lockd.daemon.pid, configuration)
    with StatusConnection.connect(lockd.daemon.admin_socket) as status:
        assert [lock["doubt"] for lock in status.locks()] == [LOST]
