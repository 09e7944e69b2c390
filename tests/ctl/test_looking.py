"""lockctl who and lockctl resource: the owner and the resource of a disk."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.container import Container
from tests.ctl.conftest import Host
from tests.kernel_locks import locked_by_this_process

_OPEN = "import sys; file = open(sys.argv[1]); print('up', flush=True); sys.stdin.read()"


def test_who_names_the_owner(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder(disk) as holder:
        printed = host.lockctl("who", disk)
        assert printed.startswith(f'{disk} is held by domain "sh" (pid {holder.pid})\n  exclusive, since 20')
        (answer,) = json.loads(host.lockctl("who", "-J", disk))["holders"]
        assert (answer["kind"], answer["pid"], answer["owner"]) == ("owner", holder.pid, "sh")


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
def test_an_owner_in_a_container_whose_process_is_not_known_is_named(host: Host) -> None:
    disk = host.disk("disk")
    with Container() as container:
        libvirtd = container.start(host.daemon.socket)
        assert libvirtd.register(888).acquire(disk) is None
        assert 'domain "vm1" (a process of another pid namespace)' in host.lockctl("who", disk)
        assert "vm1" in host.lockctl("status")
        released = f"released {disk}, which pid 888 of another pid namespace held\n"
        assert host.lockctl("release", "--force", disk) == released


def test_who_finds_the_owner_by_any_name_of_the_disk(host: Host) -> None:
    disk = host.disk("disk")
    hard_link, symbolic_link = disk.with_name("hard"), disk.with_name("symbolic")
    hard_link.hardlink_to(disk)
    symbolic_link.symlink_to(disk)
    with host.holder(disk) as holder:
        for name in (hard_link, symbolic_link):
            assert f"(pid {holder.pid})" in host.lockctl("who", name)


def test_who_finds_the_owner_by_the_lease_file(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder(disk) as direct:
        leases = host.lockspace()
        # The lock on the disk itself is found, although libvirt would lock a lease file from now on.
        assert f"(pid {direct.pid})" in host.lockctl("who", disk)
    with host.holder(disk) as holder:
        printed = host.lockctl("who", disk)
        assert f"(pid {holder.pid})" in printed
        assert f"\n  by {leases}/{hashlib.sha256(os.fsencode(disk)).hexdigest()}" in printed


def test_who_names_a_process_that_is_no_owner(host: Host) -> None:
    disk = host.disk("disk")
    with locked_by_this_process(disk):
        assert f"(pid {os.getpid()})" in host.lockctl("who", disk)


def test_who_does_not_end_the_lock_of_the_daemon(host: Host) -> None:
    """lockctl opens and closes the disk. This ends only locks of its own process, and it holds none."""
    disk = host.disk("disk")
    with host.holder(disk):
        for _ in range(2):
            host.lockctl("who", disk)
            host.lockctl("status", disk)


def test_who_distinguishes_a_free_disk_from_a_missing_one(host: Host) -> None:
    disk = host.disk("disk")
    assert host.lockctl("who", disk, status=1) == f"nobody holds {disk}\n"
    assert "there is no such disk" in host.lockctl("who", host.directory / "missing", status=74)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_who_opens_nothing_that_can_be_no_disk(host: Host, kind: str) -> None:
    """To open a watchdog is to start it."""
    path = host.directory / kind
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/tty")  # which cannot be opened, as there is no terminal
    message = f"lockctl: {path}: it is neither a regular file nor a block device\n"
    assert host.lockctl("who", path, status=74) == message


def test_who_names_a_process_that_has_the_disk_open_without_a_lock(host: Host) -> None:
    disk = host.disk("disk")
    opener = [sys.executable, "-c", _OPEN, str(disk)]
    with subprocess.Popen(opener, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        printed = host.lockctl("who", disk, status=1)
        assert printed.startswith(f"nobody holds {disk}, but it is open in process ")
        assert f"(pid {process.pid})" in printed
        process.kill()


def test_resource_names_the_file_itself_by_default(host: Host) -> None:
    disk = host.disk("disk")
    assert host.lockctl("resource", disk) == (
        f"lockspace: none: the file itself is locked\nresource:  {disk}\nfile:      {disk}\n"
    )


def test_resource_names_the_lease_file_of_the_configuration(host: Host) -> None:
    leases = host.lockspace()
    name = hashlib.sha256(b"/images/disk").hexdigest()
    assert json.loads(host.lockctl("resource", "--json", "/images/disk")) == {
        "disk": "/images/disk",
        "lockspace": str(leases),
        "resource": name,
        "path": f"{leases}/{name}",
        "autocreate": True,
    }


def test_resource_reports_a_mistake_in_the_configuration_with_its_line(host: Host) -> None:
    configuration: Path = host.configuration / "qemu-lockd.conf"
    configuration.write_text("# comment\nfile_lockspace_dir = 1\n")
    printed = host.lockctl("resource", "/disk", status=74)
    assert printed.startswith("lockctl: ")
    assert "qemu-lockd.conf:2: file_lockspace_dir has to be a text" in printed


def test_resource_says_if_libvirt_takes_no_lock(host: Host) -> None:
    (host.configuration / "qemu-lockd.conf").write_text("auto_disk_leases = 0\n")
    assert "auto_disk_leases is 0" in host.lockctl("resource", "/disk")
