"""File servers that lack an operation which other file systems have."""

import errno
from pathlib import Path

import pytest

from lockd.ctl import clean
from lockd.wire.lock import AcquireFlags, Procedure, encode_resource
from tests.private_daemon import PrivateDaemon
from tests.trouble.conftest import MakeGuest
from tests.trouble.guest import Refused
from tests.trouble.hanging_filesystem import HangingFilesystem, ServerLock

LEASE = Path("lease")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP])
def test_a_lease_file_is_made_on_a_server_without_mknod(
    daemon: PrivateDaemon, filesystem: HangingFilesystem, make_guest: MakeGuest, number: int
) -> None:
    """virtlockd makes it by open(2), so such servers always worked."""
    guest = make_guest()
    lockspace = filesystem.path / "leases"
    guest.create_lockspace(lockspace)
    filesystem.fail(mknod=number)
    for _ in range(2):
        guest.acquire(LEASE, str(lockspace), AcquireFlags.AUTOCREATE)
        assert filesystem.locks() == [ServerLock("leases/lease", daemon.pid, exclusive=True)]
        guest.release(LEASE, str(lockspace))
        assert filesystem.locks() == []
        assert not (lockspace / LEASE).exists()
    for _ in range(2):
        guest.send(Procedure.CREATE_RESOURCE, encode_resource(str(lockspace), str(LEASE)))
        guest.reply()
    assert (lockspace / LEASE).stat().st_mode & 0o777 == 0o600


def test_a_server_without_flush_keeps_no_lock(filesystem: HangingFilesystem, make_guest: MakeGuest) -> None:
    """FLUSH tells a server that a descriptor was closed, and so that the locks of its process end."""
    guest = make_guest()
    disk, lockspace = filesystem.path / "disk", filesystem.path / "leases"
    disk.touch()
    guest.create_lockspace(lockspace)
    filesystem.fail(flush=errno.ENOSYS)
    for shared in (0, AcquireFlags.SHARED):
        guest.acquire(disk, flags=shared)
        guest.release(disk)
        guest.acquire(LEASE, str(lockspace), AcquireFlags.AUTOCREATE | shared)
        guest.release(LEASE, str(lockspace))
    assert filesystem.locks() == []


def test_clean_leaves_no_lock_on_a_server_without_flush(filesystem: HangingFilesystem) -> None:
    filesystem.make("lease")
    filesystem.fail(flush=errno.ENOSYS, unlink=errno.EACCES)
    with pytest.raises(PermissionError):
        clean.remove(str(filesystem.path / "lease"))
    assert filesystem.locks() == []


def test_a_new_file_that_cannot_be_identified_is_refused_until_it_can(
    daemon: PrivateDaemon, filesystem: HangingFilesystem, make_guest: MakeGuest
) -> None:
    """Its descriptor must not be closed: nobody knows whether a lock would end by that (Invariant 1)."""
    guest = make_guest()
    lockspace = filesystem.path / "leases"
    guest.create_lockspace(lockspace)
    filesystem.fail(mknod=errno.ENOSYS, getattr=errno.EIO)
    with pytest.raises(Refused, match=r"Unable to check status of pid file .*: Input/output error"):
        guest.acquire(LEASE, str(lockspace), AcquireFlags.AUTOCREATE)
    filesystem.fail(mknod=errno.ENOSYS)
    guest.acquire(LEASE, str(lockspace), AcquireFlags.AUTOCREATE)
    assert filesystem.locks() == [ServerLock("leases/lease", daemon.pid, exclusive=True)]
    guest.release(LEASE, str(lockspace))
    assert filesystem.locks() == []


@pytest.mark.parametrize(
    ("operation", "words"),
    [("open", "Unable to open/create resource"), ("setlk", "Unable to acquire lock on")],
)
def test_a_server_that_answers_estale_for_ever_is_not_asked_for_ever(
    filesystem: HangingFilesystem, make_guest: MakeGuest, operation: str, words: str
) -> None:
    guest = make_guest()
    lockspace = filesystem.path / "leases"
    guest.create_lockspace(lockspace)
    filesystem.fail(**{operation: errno.ESTALE})
    with pytest.raises(Refused, match=f"{words} .*: Stale file handle"):
        guest.acquire(LEASE, str(lockspace), AcquireFlags.AUTOCREATE)
    # The kernel tries each open(2) twice, and a descriptor is unlocked before it is closed.
    assert 2 < filesystem.arrived(operation) <= 2 * 20


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EACCES])
def test_a_server_need_not_have_directories_opened(
    filesystem: HangingFilesystem, make_guest: MakeGuest, number: int
) -> None:
    guest = make_guest()
    lockspace = filesystem.path / "leases"
    guest.create_lockspace(lockspace)
    filesystem.fail(opendir=number)
    guest.acquire(LEASE, str(lockspace), AcquireFlags.AUTOCREATE)
    guest.release(LEASE, str(lockspace))
    assert not (lockspace / LEASE).exists()


def test_what_cannot_be_looked_up_anew_is_not_locked(
    filesystem: HangingFilesystem, make_guest: MakeGuest
) -> None:
    """What the host remembers may be wrong."""
    guest = make_guest()
    lockspace = filesystem.path / "leases"
    guest.create_lockspace(lockspace)
    filesystem.fail(opendir=errno.EIO)
    with pytest.raises(Refused, match=r"Unable to open/create resource .*: Input/output error"):
        guest.acquire(LEASE, str(lockspace), AcquireFlags.AUTOCREATE)
    filesystem.fail()
    assert filesystem.locks() == []
