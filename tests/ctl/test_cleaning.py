"""lockctl release and lockctl clean: remove what dead owners and hosts have left behind."""

import json
import os
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest

from lockd.client.connection import LockConnection
from lockd.client.errors import Busy
from lockd.client.resource import Resource
from lockd.ctl import clean
from lockd.wire.lock import Owner
from tests.container import Container
from tests.ctl.conftest import Host
from tests.kernel_locks import locks_on
from tests.private_daemon import private_daemon

LEASE = "0123456789abcdef" * 4
LVM_LEASE = "AbCdEf-0123-4567-89AB-CDEF-ghij-klmnop"


def dead_owner() -> Owner:
    process = subprocess.Popen(["true"])
    process.wait()
    return Owner(UUID(int=1), "gone", 1, process.pid)


# release


def test_the_lock_of_an_owner_that_is_gone_is_released_and_that_is_logged(host: Host) -> None:
    disk = host.disk("disk")
    owner = dead_owner()
    with LockConnection.connect(host.daemon.socket) as connection:
        connection.register(owner)
        connection.acquire(Resource("", str(disk)))
        assert locks_on(disk)
        printed = host.lockctl("release", "--force", disk)
        assert printed == f"released {disk}, which pid {owner.pid} held\n"
        assert locks_on(disk) == []
        assert (
            f'"gone" (pid {owner.pid}) is gone: an administrator releases its lock on {disk}'
            in host.daemon.log.read_text()
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
def test_an_owner_without_a_pid_on_this_host_is_named_by_that_in_its_container(host: Host) -> None:
    disk = host.disk("disk")
    with Container() as container:
        client = container.start(host.daemon.socket).register(888)
        assert client.acquire(disk) is None
        printed = host.lockctl("release", "--force", disk)
        assert printed == f"released {disk}, which pid 888 of another pid namespace held\n"


def test_release_takes_a_resource_by_its_path_or_its_name(host: Host) -> None:
    leases = host.directory / "leases"
    with LockConnection.connect(host.daemon.socket) as connection:
        connection.register(dead_owner())
        for lockspace in (leases, host.directory / "others"):
            connection.create_lockspace(str(lockspace))
            connection.acquire(Resource(str(lockspace), LEASE, autocreate=True))
        assert "in several lockspaces" in host.lockctl("release", "--force", LEASE, status=74)
        host.lockctl("release", "--force", leases / LEASE)
        host.lockctl("release", "--force", LEASE)
        assert "nobody holds" in host.lockctl("release", "--force", LEASE, status=1)


def test_the_lock_of_an_owner_that_lives_is_not_released(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder(disk) as holder:
        printed = host.lockctl("release", "--force", disk, status=74)
        who = f'domain "sh" (pid {holder.pid})'
        assert printed == f"lockctl: {disk} is held by {who}, which is alive on this host\n"
        assert locks_on(disk)


def test_release_without_force_is_refused(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder(disk):
        assert "add --force" in host.lockctl("release", disk, status=2)
        assert locks_on(disk)


# clean


def test_lease_files_without_a_holder_are_removed_and_others_kept(host: Host) -> None:
    leases = host.lockspace()
    disk = host.disk("disk")
    with host.holder(disk):
        held = {path.name for path in leases.iterdir()}
        for name in (LEASE, LVM_LEASE, "README", f"{LEASE}.bak"):
            (leases / name).touch()
        written = "f" * 64
        (leases / written).write_text("no lease has content")
        target = host.disk("target")
        target.write_bytes(b"")
        (leases / ("e" * 64)).symlink_to(target)
        (leases / ("d" * 64)).mkdir()
        before = {path.name for path in leases.iterdir()}
        dry = host.lockctl("clean", "--dry-run", leases)
        assert dry == f"{leases}/{LEASE}\n{leases}/{LVM_LEASE}\n2 to be removed, 1 held, 5 not lease files\n"
        assert {path.name for path in leases.iterdir()} == before
        assert host.lockctl("clean", leases) == "2 removed, 1 held, 5 not lease files\n"
        kept = {path.name for path in leases.iterdir()}
        assert kept == held | {"README", f"{LEASE}.bak", written, "e" * 64, "d" * 64}
        assert target.exists()
        assert json.loads(host.lockctl("status", "-J"))["locks"][0]["kernel"] == "yes"


def test_in_the_lockspace_of_scsi_disks_a_lease_may_have_any_name(host: Host) -> None:
    leases = host.directory / "scsi"
    leases.mkdir()
    (leases / "36000c29").touch()
    assert host.lockctl("clean", leases) == "0 removed, 1 not lease files\n"
    (host.configuration / "qemu-lockd.conf").write_text(f'scsi_lockspace_dir = "{leases}"\n')
    assert host.lockctl("clean", leases) == "1 removed\n"


def test_clean_reports_a_missing_directory_in_one_line(host: Host) -> None:
    missing = host.directory / "missing"
    assert host.lockctl("clean", missing, status=74) == f"lockctl: {missing}: No such file or directory\n"


def _cleaned(path: str) -> bool:
    """Clean one file as lockctl clean does; return whether it was removed.

    This opens and closes the file. It ends no lock here, because this process holds none.
    """
    try:
        return clean.remove(path) is clean.Outcome.REMOVED
    except FileNotFoundError:
        return False


def test_no_lock_is_given_twice_while_it_cleans(host: Host) -> None:
    """Two daemons, like those of two hosts with a shared directory, lock and unlink the cleaned file."""
    leases = host.directory / "shared"
    lease = Resource(str(leases), LEASE, autocreate=True)
    holders: list[int] = []
    granted = [0, 0]
    given_twice: list[int] = []
    ended = threading.Event()

    def take_again_and_again(number: int, connection: LockConnection) -> None:
        while not ended.is_set():
            try:
                connection.acquire(lease)
            except Busy:
                continue
            holders.append(number)
            time.sleep(0.001)
            if len(holders) > 1:
                given_twice.append(number)
            granted[number] += 1
            holders.remove(number)
            connection.release(lease)

    with ExitStack() as stack:
        other = stack.enter_context(private_daemon(host.directory / "other"))
        connections = []
        for daemon in (host.daemon, other):
            connection = stack.enter_context(LockConnection.connect(daemon.socket))
            connection.register()
            connection.create_lockspace(str(leases))
            connections.append(connection)
        threads = [
            threading.Thread(target=take_again_and_again, args=pair) for pair in enumerate(connections)
        ]
        for thread in threads:
            thread.start()
        try:
            removed = 0
            deadline = time.monotonic() + 300
            while removed < 100 or min(granted) < 100:
                assert time.monotonic() < deadline, f"{removed} removed, {granted} granted in 5 minutes"
                # A file without a lock, as a host that crashes leaves it: the cleaner and both daemons are after it.
                Path(lease.path).touch()
                removed += _cleaned(lease.path)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert not given_twice
    assert not list(leases.iterdir())


def test_progress_is_not_shown_without_a_terminal(host: Host, tmp_path: Path) -> None:
    leases = tmp_path / "many"
    leases.mkdir()
    for number in range(300):
        (leases / f"{number:064x}").touch()
    assert host.lockctl("clean", leases) == "300 removed\n"
    assert os.listdir(leases) == []
