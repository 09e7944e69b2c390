"""A lock on a file server is lost in an upgrade, and the server hangs: a worker thread takes it again."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd.locks.resource import BEING_TAKEN, LOST
from tests.handover.conftest import MakeDisk, MakeGuest
from tests.handover.program import Program, answers, said
from tests.handover.test_adopted import doubts
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.trouble.guest import Guest, Refused
from tests.trouble.hanging_filesystem import HangingFilesystem, ServerLock, can_mount, mounted
from tests.waiting import wait_until


@pytest.fixture
def filesystem(tmp_path: Path) -> Iterator[HangingFilesystem]:
    if not can_mount():
        pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
    with mounted(tmp_path / "server") as filesystem:
        yield filesystem
        filesystem.release_all()


@pytest.fixture
def daemon(tmp_path: Path, program: Program, filesystem: HangingFilesystem) -> Iterator[PrivateDaemon]:
    """A daemon that sees the file system."""
    with private_daemon(tmp_path / "daemon", program.path) as daemon:
        yield daemon
        filesystem.release_all()


@pytest.fixture
def remote(filesystem: HangingFilesystem) -> Path:
    path = filesystem.path / "disk"
    path.touch()
    return path


@pytest.fixture
def guest(
    daemon: PrivateDaemon,
    program: Program,
    filesystem: HangingFilesystem,
    remote: Path,
    make_guest: MakeGuest,
    tmp_path: Path,
) -> Guest:
    """A guest whose lock is lost in an upgrade, while the server hangs."""
    guest = make_guest()
    guest.acquire(remote)
    lost, go_on = tmp_path / "lost", tmp_path / "go-on"
    program.install_lockd_after(
        f"os.close(resources[0]['fd']); open({str(lost)!r}, 'w')\n"
        f"while not os.path.exists({str(go_on)!r}): pass"
    )
    daemon.signal(signal.SIGUSR1)
    wait_until(lost.exists, "the lock is lost")
    assert filesystem.locks() == []
    filesystem.hang("everything")
    go_on.touch()
    return guest


def test_it_is_in_doubt_until_the_server_is_back(
    daemon: PrivateDaemon,
    filesystem: HangingFilesystem,
    remote: Path,
    guest: Guest,
    make_guest: MakeGuest,
    make_disk: MakeDisk,
) -> None:
    assert answers(daemon)
    assert doubts(daemon) == {str(remote): BEING_TAKEN}
    rival = make_guest()
    rival.acquire(make_disk())
    with pytest.raises(Refused, match="is locked by"):
        rival.acquire(remote)
    filesystem.release_all()
    wait_until(lambda: doubts(daemon) == {str(remote): LOST}, "the lock is taken again")
    assert filesystem.locks() == [ServerLock("disk", daemon.pid, exclusive=True)]
    guest.release(remote)
    assert filesystem.locks() == []


def test_its_release_waits_for_that(
    daemon: PrivateDaemon, filesystem: HangingFilesystem, remote: Path, guest: Guest, make_guest: MakeGuest
) -> None:
    assert answers(daemon)
    guest.send_release(remote)
    rival = make_guest()
    with pytest.raises(Refused, match="is locked"):
        rival.acquire(remote)
    assert not guest.has_reply()
    filesystem.release_all()
    guest.reply()
    assert filesystem.locks() == []
    rival.acquire(remote)


def test_it_ends_where_somebody_else_has_it_now(
    daemon: PrivateDaemon, filesystem: HangingFilesystem, remote: Path, guest: Guest
) -> None:
    assert answers(daemon)
    filesystem.lock_elsewhere("disk")
    filesystem.release_all()
    wait_until(lambda: doubts(daemon) == {}, "the lock is given up")
    assert f"{remote}: the lock was lost: Lockspace resource '{remote}' is locked" in said(daemon)
    with pytest.raises(Refused, match="is not locked"):
        guest.release(remote)
    assert not guest.is_dead
