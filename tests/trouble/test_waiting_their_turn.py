"""Whoever asks for a file that somebody has for a moment gets it after that. No thread waits for it."""

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd.wire.lock import AcquireFlags, Procedure, encode_lockspace
from tests.kernel_locks import KernelLock, locks_on
from tests.lease import Lease
from tests.private_daemon import PrivateDaemon
from tests.trouble.conftest import MakeGuest
from tests.trouble.guest import Guest, Refused
from tests.trouble.hanging_filesystem import HangingFilesystem
from tests.waiting import wait_until

MORE_THAN_THREADS = 20  # a queue has 16


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[list[Lease]]:
    """Leases on files of one directory."""
    directory = tmp_path / "images"
    directory.mkdir()
    paths = [directory / str(number) for number in range(MORE_THAN_THREADS)]
    for path in paths:
        path.touch()
    leases = [Lease(path) for path in paths]
    yield leases
    for lease in reversed(leases):
        lease.close()


def ask_for_all(make_guest: MakeGuest, leases: list[Lease]) -> list[Guest]:
    """Have a guest ask for each file that somebody has a lease on, by way of a link."""
    guests = []
    for lease in leases:
        link = lease.path.with_name(f"{lease.path.name}.link")
        link.symlink_to(lease.path)
        guests.append(make_guest())
        guests[-1].send_acquire(link)
    return guests


def test_leases_on_many_files_hold_up_nobody_else(
    daemon: PrivateDaemon, make_guest: MakeGuest, leases: list[Lease]
) -> None:
    disk = leases[0].path.with_name("disk")
    disk.touch()
    link = disk.with_name("link")
    link.symlink_to(disk)
    guests = ask_for_all(make_guest, leases)
    honest = make_guest()
    honest.acquire(link)
    honest.release(link)
    assert not any(guest.has_reply() for guest in guests)
    leases[0].give_up()
    guests[0].reply()
    assert locks_on(leases[0].path) == [KernelLock("WRITE", daemon.pid)]


@pytest.fixture
def lease(tmp_path: Path) -> Iterator[Lease]:
    """A lease on one file."""
    (tmp_path / "leased").touch()
    lease = Lease(tmp_path / "leased")
    yield lease
    lease.close()


def test_a_file_with_a_lease_is_created_once_the_lease_is_given_up(
    make_guest: MakeGuest, lease: Lease
) -> None:
    guest = make_guest()
    guest.send_create(lease.path)
    wait_until(lambda: lease.asked_back, "the kernel asks for the lease")
    assert not guest.has_reply()
    lease.give_up()
    guest.reply()


def test_whoever_leaves_no_longer_waits_for_a_lease(make_guest: MakeGuest, lease: Lease) -> None:
    guest, rival = make_guest(), make_guest()
    guest.send_acquire(lease.path)
    wait_until(lambda: lease.asked_back, "the kernel asks for the lease")
    guest.drop_connection()
    rival.send_acquire(lease.path)
    while is_answered(rival):
        with pytest.raises(Refused, match="is locked being acquired by"):
            rival.reply()
        rival.send_acquire(lease.path)
    lease.give_up()
    rival.reply()
    assert not guest.is_dead


def is_answered(guest: Guest, seconds: float = 0.3) -> bool:
    """Whether a guest's call is answered within a time."""
    return bool(select.select([guest.connection], [], [], seconds)[0])


@pytest.fixture
def remote(filesystem: HangingFilesystem) -> Path:
    """A disk on a file server that can hang."""
    path = filesystem.path / "disk"
    path.touch()
    return path


def test_an_acquire_waits_for_a_create_of_the_same_file(
    filesystem: HangingFilesystem, remote: Path, make_guest: MakeGuest
) -> None:
    maker, guest = make_guest(), make_guest()
    before = filesystem.arrived("open")
    filesystem.hang("open")
    maker.send_create(remote)
    filesystem.wait_for("open", before + 1)
    guest.send_acquire(remote)
    assert not is_answered(guest)
    filesystem.release_all()
    maker.reply()
    guest.reply()
    guest.release(remote)
    assert filesystem.locks() == []


@pytest.mark.parametrize("autocreate", [False, True])
def test_an_acquire_and_a_delete_wait_for_a_delete_of_the_same_file(
    filesystem: HangingFilesystem, remote: Path, make_guest: MakeGuest, autocreate: bool
) -> None:
    remover, guest, second = make_guest(), make_guest(), make_guest()
    filesystem.hang("unlink")
    remover.send_delete(remote)
    filesystem.wait_for("unlink")
    second.send_delete(remote)
    assert not is_answered(second)
    guest.send_acquire(remote, flags=AcquireFlags.AUTOCREATE if autocreate else 0)
    assert not is_answered(guest)
    filesystem.release_all()
    remover.reply()
    if autocreate:
        guest.reply()
    else:
        with pytest.raises(Refused, match="No such file or directory"):
            guest.reply()


def test_only_one_of_two_clients_makes_a_new_lockspace(
    filesystem: HangingFilesystem, make_guest: MakeGuest
) -> None:
    lockspace = filesystem.path / "leases"
    guests = [make_guest(), make_guest()]
    filesystem.hang("mkdir")
    for guest in guests:
        guest.send(Procedure.NEW, encode_lockspace(str(lockspace)))
    filesystem.wait_for("mkdir")
    filesystem.release_all()
    refusals = [refusal_of(guest) for guest in guests]
    assert sorted(refusals) == ["", f"internal error: Lockspace for path {lockspace} already exists"]


def refusal_of(guest: Guest) -> str:
    """Return why a guest's call is refused; empty if it is not."""
    try:
        guest.reply()
    except Refused as refused:
        return str(refused)
    return ""
