"""Block devices that do not answer: only clients that ask for them wait."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lock_fixtures import loop_device
from tests.private_daemon import PrivateDaemon
from tests.trouble.conftest import MakeGuest
from tests.trouble.guest import Guest, Refused
from tests.trouble.hanging_filesystem import HangingFilesystem
from tests.trouble.test_slow_filesystems import SHORT, Bystander, can_acquire

DIRTY = bytes(64 * 1024)


@pytest.fixture
def bystander(daemon: PrivateDaemon, make_guest: MakeGuest, tmp_path: Path) -> Bystander:
    return Bystander(make_guest(), tmp_path, daemon)


@pytest.fixture
def device(filesystem: HangingFilesystem) -> Iterator[Path]:
    """A loop device, whose blocks are on a file server that can hang."""
    backing = filesystem.path / "backing"
    backing.touch()
    os.truncate(backing, 1 << 20)
    with loop_device(backing) as node:
        yield node
        filesystem.release_all()


@pytest.fixture(params=["node", "link", "node elsewhere"])
def path(request: pytest.FixtureRequest, device: Path, tmp_path: Path) -> Path:
    """A path that leads to the device."""
    kind: str = request.param
    if kind == "node":
        return device
    path = tmp_path / kind
    if kind == "link":
        path.symlink_to(device)
    else:
        os.mknod(path, 0o60600, device.stat().st_rdev)
    return path


def dirty(device: Path) -> None:
    """Write to a device, and leave it to whoever closes it last to wait until the pages are written out."""
    with device.open("r+b", buffering=0) as file:
        file.write(DIRTY)


def hang_in_release(guest: Guest, filesystem: HangingFilesystem, device: Path, path: Path) -> None:
    """Have the guest's release hang, as the last close(2) writes out all dirty pages of the device."""
    before = filesystem.arrived("write")
    filesystem.hang("write")
    dirty(device)
    guest.send_release(path)
    filesystem.wait_for("write", before + 1)


def test_the_release_of_a_device_that_hangs_hangs_nobody_else(
    filesystem: HangingFilesystem, device: Path, path: Path, make_guest: MakeGuest, bystander: Bystander
) -> None:
    guest, rival = make_guest(), make_guest()
    guest.acquire(path)
    hang_in_release(guest, filesystem, device, path)
    assert bystander.worst_wait() < SHORT
    with pytest.raises(Refused, match="is locked"):
        rival.acquire(path)
    assert not guest.has_reply()
    filesystem.release_all()
    guest.reply()
    assert can_acquire(rival, path)


def test_a_device_that_hangs_does_not_hold_up_another_one(
    filesystem: HangingFilesystem, device: Path, make_guest: MakeGuest, tmp_path: Path
) -> None:
    (tmp_path / "other").write_bytes(bytes(1 << 20))
    with loop_device(tmp_path / "other") as other:
        guest, rival = make_guest(), make_guest()
        guest.acquire(device)
        hang_in_release(guest, filesystem, device, device)
        rival.acquire(other)
        rival.release(other)
        assert not guest.has_reply()
        filesystem.release_all()
        guest.reply()


def test_a_device_is_there_already_for_who_creates_it(device: Path, make_guest: MakeGuest) -> None:
    guest = make_guest()
    guest.send_create(device)
    guest.reply()
