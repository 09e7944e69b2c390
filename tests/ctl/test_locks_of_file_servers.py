"""lockctl and a file system whose server keeps the locks: the kernel lists none of them."""

import errno
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ctl.conftest import Host, host_with
from tests.private_daemon import LOCKD
from tests.trouble.hanging_filesystem import HangingFilesystem, can_mount, mounted


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HangingFilesystem]:
    """A FUSE file system that keeps locks itself."""
    if not can_mount():
        pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
    with mounted(tmp_path / "server") as server:
        yield server


@pytest.fixture
def host(tmp_path: Path, server: HangingFilesystem) -> Iterator[Host]:
    """A host that sees the file system."""
    with host_with(tmp_path, LOCKD) as host:
        yield host


def found_by_check(host: Host, status: int = 0) -> dict[str, tuple[str, str]]:
    found = json.loads(host.lockctl("check", "--json", status=status))["findings"]
    return {entry["subject"]: (entry["result"], entry["detail"]) for entry in found}


def test_a_lock_that_the_kernel_does_not_list_is_no_disagreement(
    host: Host, server: HangingFilesystem
) -> None:
    disk = server.path / "disk"
    disk.touch()
    other = host.disk("other")
    with host.holder(disk, other):
        locks = json.loads(host.lockctl("status", "--json"))["locks"]
        assert {lock["path"]: lock["kernel"] for lock in locks} == {str(disk): "server", str(other): "yes"}
        assert found_by_check(host)["locks of the kernel"] == (
            "PASS",
            "agree on all 1; 1 more are kept by file servers, and the kernel does not list them",
        )


def test_a_lock_on_a_link_to_a_file_server_is_no_disagreement(host: Host, server: HangingFilesystem) -> None:
    (server.path / "disk").touch()
    link = host.directory / "link"
    link.symlink_to(server.path / "disk")
    with host.holder(link):
        (lock,) = json.loads(host.lockctl("status", "--json"))["locks"]
        assert lock["kernel"] == "server"


def test_a_lock_by_a_path_that_another_user_can_change_is_no_disagreement(
    host: Host, server: HangingFilesystem
) -> None:
    """It is not known where such a path leads before a worker thread has followed it."""
    (server.path / "disk").touch()
    home = host.directory / "home"
    home.mkdir()
    (home / "images").symlink_to(server.path)
    os.chown(home, 1000, 1000)
    with host.holder(home / "images" / "disk"):
        (lock,) = json.loads(host.lockctl("status", "--json"))["locks"]
        assert lock["kernel"] == "server"


def test_check_makes_a_file_as_the_daemon_does(host: Host, server: HangingFilesystem) -> None:
    """Where the daemon cannot lock, it is no help that lockctl could."""
    leases = server.path / "leases"
    leases.mkdir()
    (host.configuration / "qemu-lockd.conf").write_text(f'file_lockspace_dir = "{leases}"\n')
    assert found_by_check(host)[f"lockspace {leases}"] == ("PASS", "its files can be made and locked")
    assert server.locks() == []
    for failing in (
        {"setlk": errno.ENOLCK},
        {"create": errno.EDQUOT, "mknod": errno.EDQUOT},
        {"open": errno.EIO},
    ):
        server.fail(**failing)
        result, detail = found_by_check(host, status=1)[f"lockspace {leases}"]
        assert result == "FAIL"
        assert detail.endswith(os.strerror(next(iter(failing.values()))))


def test_check_tries_the_directories_of_images_that_are_locked_themselves(
    host: Host, server: HangingFilesystem
) -> None:
    disk = server.path / "disk"
    disk.touch()
    blockdev = f'{{"driver":"file","filename":"{disk}"}}'
    qemu = host.directory / "qemu-system"
    qemu.symlink_to("/bin/sh")
    server.fail(setlk=errno.ENOLCK)
    guest = [str(qemu), "-c", "echo up; read _", "qemu", "-blockdev", blockdev]
    with subprocess.Popen(guest, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        found = found_by_check(host, status=1)
        process.kill()
    result, detail = found[f"images in {server.path}"]
    assert result == "FAIL"
    assert "its files cannot be locked, and no guest can start" in detail
    assert os.strerror(errno.ENOLCK) in detail
    assert found[f"reach of {server.path}"][0] == "WARN"

    # Locks of running guests tell where images are, too. A directory in which no file can be made may have disks.
    server.fail(create=errno.EROFS, mknod=errno.EROFS)
    with host.holder(disk):
        result, detail = found_by_check(host)[f"images in {server.path}"]
    assert result == "WARN"
    assert os.strerror(errno.EROFS) in detail


def test_check_does_not_wait_for_a_file_server_that_hangs(host: Host, server: HangingFilesystem) -> None:
    leases = server.path / "leases"
    leases.mkdir()
    disks = [server.path / name for name in ("disk", "other-disk")]
    for disk in disks:
        disk.touch()
    hangs = ("FAIL", "its file system does not answer within 5 seconds: see if its server runs")
    with host.holder(*disks):
        server.hang("lookup", "getattr")
        began = time.monotonic()
        assert found_by_check(host, status=1)[f"images in {server.path}"] == hangs
        (host.configuration / "qemu-lockd.conf").write_text(f'file_lockspace_dir = "{leases}"\n')
        assert found_by_check(host, status=1)[f"lockspace {leases}"] == hangs
        assert time.monotonic() - began < 30
        server.release_all()
