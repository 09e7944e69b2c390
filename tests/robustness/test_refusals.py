"""If a file system refuses an operation, the client gets virtlockd's error text, and no lock is lost."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.differential import pair
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import LOCKD, VIRTLOCKD, PrivateDaemon, private_daemon
from tests.raw_client import AUTOCREATE, SHARED, RawClient

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and giving up rights, need root")

# Root without the capabilities that override file permissions.
WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--")


class Site:
    """A daemon that holds a lock on a disk in a directory that can be mounted over."""

    def __init__(self, daemon: PrivateDaemon, client: RawClient) -> None:
        self.daemon = daemon
        self.client = client
        self.mount_point = daemon.run_directory / "mounted"
        self.mount_point.mkdir()
        self.inside = "/run/mounted"
        self.outside = Path(f"/proc/{daemon.pid}/root{self.inside}")

    def mount(self, options: str) -> None:
        self.daemon.run_inside("mount", "-t", "tmpfs", "-o", options, "tmpfs", self.inside)

    @contextmanager
    def lock_kept(self, name: str = "kept") -> Iterator[None]:
        """Acquire a lock, assert at the end of the context that it is still held, and release it."""
        disk = self.outside / name
        disk.write_bytes(b"")
        assert self.client.acquire(f"{self.inside}/{name}") is None
        yield
        assert locks_on(disk) == [KernelLock("WRITE", self.daemon.pid)]
        assert self.client.release(f"{self.inside}/{name}") is None
        assert locks_on(disk) == []


@pytest.fixture(params=["lockd", "virtlockd"])
def program(request: pytest.FixtureRequest) -> Path:
    """lockd and virtlockd in turn: both have to give the same errors."""
    if request.param == "virtlockd" and (reason := pair.missing()):
        pytest.skip(reason)
    return {"lockd": LOCKD, "virtlockd": VIRTLOCKD}[request.param]


@pytest.fixture
def site(tmp_path: Path, program: Path) -> Iterator[Site]:
    with private_daemon(tmp_path / "daemon", program) as daemon, RawClient(daemon) as client:
        yield Site(daemon, client)


def test_new_files_are_refused_when_no_space_is_left(site: Site) -> None:
    site.mount("nr_inodes=3")
    refusal = f"Unable to open/create resource {site.inside}/lease: No space left on device"
    with site.lock_kept():
        (site.outside / "full").write_bytes(b"")
        assert site.client.acquire(f"{site.inside}/lease", flags=AUTOCREATE) == refusal
        assert site.client.create(f"{site.inside}/lease") == (
            f"cannot create file '{site.inside}/lease': No space left on device"
        )
        assert site.client.create_lockspace(f"{site.inside}/leases") == (
            f"Unable to create lockspace {site.inside}/leases: No space left on device"
        )
        (site.outside / "full").unlink()
        assert site.client.acquire(f"{site.inside}/lease", flags=AUTOCREATE) is None
        assert site.client.release(f"{site.inside}/lease") is None


def test_all_changes_of_a_read_only_file_system_are_refused(site: Site) -> None:
    site.mount("mode=0755")
    lease, disk = f"{site.inside}/lease", f"{site.inside}/disk"
    (site.outside / "disk").write_bytes(b"")
    # Both daemons open a file for writing, even for a shared lock.
    site.daemon.run_inside("mount", "-o", "remount,ro", site.inside)
    assert site.client.acquire(disk) == f"Unable to open resource {disk}: Read-only file system"
    assert site.client.acquire(disk, flags=SHARED) == f"Unable to open resource {disk}: Read-only file system"
    created = site.client.acquire(lease, flags=AUTOCREATE)
    assert created == f"Unable to open/create resource {lease}: Read-only file system"
    assert site.client.create(lease) == f"cannot create file '{lease}': Read-only file system"
    deleted = site.client.delete(disk)
    assert deleted == f"Unable to delete lockspace resource {disk}: Read-only file system"
    site.daemon.run_inside("mount", "-o", "remount,rw", site.inside)
    assert site.client.acquire(disk) is None


def test_a_lease_that_cannot_be_removed_is_released_all_the_same(site: Site) -> None:
    """Only the lease file stays."""
    site.mount("mode=0755")
    directory = site.outside / "leases"
    assert site.client.create_lockspace(f"{site.inside}/leases") is None
    assert site.client.acquire("disk", f"{site.inside}/leases", AUTOCREATE) is None
    site.daemon.run_inside("mount", "--bind", f"{site.inside}/leases", f"{site.inside}/leases")
    site.daemon.run_inside("mount", "-o", "remount,bind,ro", f"{site.inside}/leases")
    assert site.client.release("disk", f"{site.inside}/leases") is None
    assert (directory / "disk").exists()
    assert locks_on(directory / "disk") == []


def test_files_without_permission_are_refused(tmp_path: Path, program: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    disk = tmp_path / "disk"
    for path in (closed / "disk", disk):
        path.write_bytes(b"")
        os.chown(path, 65534, 65534)
        path.chmod(0)
    os.chown(closed, 65534, 65534)
    closed.chmod(0)
    with (
        private_daemon(tmp_path / "daemon", program, wrapper=WITHOUT_RIGHTS) as daemon,
        RawClient(daemon) as client,
    ):
        for path in (disk, closed / "disk"):
            assert client.acquire(path) == f"Unable to open resource {path}: Permission denied"
            assert client.create(path) == f"cannot create file '{path}': Permission denied"
        lease = closed / "lease"
        created = client.acquire(lease, flags=AUTOCREATE)
        assert created == f"Unable to open/create resource {lease}: Permission denied"
        deleted = client.delete(closed / "disk")
        assert deleted == f"Unable to delete lockspace resource {closed}/disk: Permission denied"
        made = client.create_lockspace(closed / "leases")
        assert made == f"Unable to create lockspace {closed}/leases: Permission denied"
        disk.chmod(0o666)
        assert client.acquire(disk) is None


def test_names_that_cannot_be_resolved_are_refused(site: Site) -> None:
    site.mount("mode=0755")
    (site.outside / "loop").symlink_to("loop")
    loop, long = f"{site.inside}/loop", f"{site.inside}/{'x' * 256}"
    with site.lock_kept():
        for name, reason in ((loop, "Too many levels of symbolic links"), (long, "File name too long")):
            assert site.client.acquire(name) == f"Unable to open resource {name}: {reason}"
            refusal = site.client.acquire(name, flags=AUTOCREATE)
            assert refusal == f"Unable to open/create resource {name}: {reason}"
            assert site.client.create(name) == f"cannot create file '{name}': {reason}"
