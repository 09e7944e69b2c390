"""Without a free descriptor the daemon refuses some calls, and grants them again when it has one."""

import os
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.kernel_locks import KernelLock, locks_on
from tests.log.log_control import LogControl
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.raw_client import RawClient
from tests.waiting import wait_until


def leave_descriptors(daemon: PrivateDaemon, number: int) -> None:
    """Limit the daemon to the given number of further descriptors.

    RLIMIT_NOFILE limits the numbers of descriptors, so unused numbers below the limit are free, too.
    """
    wait_until(lambda: "mountinfo" in open_files(daemon).values(), "the daemon has opened all that it needs")
    taken = open_files(daemon)
    limit = free = 0
    while free < number or limit in taken:
        free += limit not in taken
        limit += 1
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (limit, hard))


def open_files(daemon: PrivateDaemon) -> dict[int, str]:
    """Return the daemon's descriptors, each with the last path component of its file."""
    found = {}
    for entry in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[int(entry.name)] = entry.readlink().name
    return found


def make_disks(directory: Path, number: int) -> list[Path]:
    disks = [directory / f"disk{n}" for n in range(number)]
    for disk in disks:
        disk.write_bytes(b"")
    return disks


def test_a_lock_is_refused_without_a_free_descriptor_and_granted_later(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon") as daemon, RawClient(daemon) as client:
        disks = make_disks(tmp_path, 4)
        assert client.acquire(disks[0]) is None
        # One for the file, and one that pins it until it is open.
        leave_descriptors(daemon, 2)
        assert client.acquire(disks[1]) is None
        refusal = f"Unable to open resource {disks[2]}: Too many open files"
        assert client.acquire(disks[2]) == refusal
        assert client.create(disks[3]) == f"cannot create file '{disks[3]}': Too many open files"
        for disk in disks[:2]:
            assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
        assert client.release(disks[0]) is None
        assert client.acquire(disks[2]) is None


def test_a_client_that_cannot_be_accepted_waits_until_another_leaves(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon") as daemon, RawClient(daemon) as client, ExitStack() as stack:
        [disk] = make_disks(tmp_path, 1)
        assert client.acquire(disk) is None
        leave_descriptors(daemon, 3)
        accepted = [RawClient(daemon, owner=None) for _ in range(3)]
        late = stack.enter_context(RawClient(daemon, owner=None))
        late.socket.sendall(late.frame(8, bytes(4)))
        # Clients that were accepted are served in the meantime.
        for one in accepted:
            assert "have not been registered" in (one.acquire(disk) or "")
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
        for one in accepted:
            one.close()
        assert late.reply() is None


def test_nobody_registers_unwatched(tmp_path: Path) -> None:
    """Without a pidfd for the owner, the daemon could never know whether the owner still writes."""
    with (
        private_daemon(tmp_path / "daemon") as daemon,
        RawClient(daemon) as client,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as guest,
    ):
        leave_descriptors(daemon, 0)
        refusal = (
            f"Unable to watch over owner {guest.pid}: Too many open files; raise the limit of open files"
        )
        assert (client.register(guest.pid) or "").startswith(refusal)
        leave_descriptors(daemon, 10)
        assert client.register(guest.pid) is None
        [disk] = make_disks(tmp_path, 1)
        assert client.acquire(disk) is None
        guest.kill()
        wait_until(lambda: locks_on(disk) == [], "the dead guest's lock ends")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_mount_without_a_free_descriptor_ends_no_lock(tmp_path: Path) -> None:
    """After a mount, the daemon has to read the mount table again, and has no free descriptor to open it."""
    with private_daemon(tmp_path / "daemon") as daemon, RawClient(daemon) as client:
        [disk] = make_disks(tmp_path, 1)
        assert client.acquire(disk) is None
        (daemon.run_directory / "mounted").mkdir()
        leave_descriptors(daemon, 0)
        daemon.run_inside("mount", "-t", "tmpfs", "tmpfs", "/run/mounted")
        daemon.run_inside("umount", "/run/mounted")
        # By the end of these calls its event loop has also handled the change of the mount table.
        for _ in range(100):
            assert "is locked by domain" in (client.acquire(disk) or "")
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]


def test_a_log_output_that_cannot_be_opened_leaves_no_file_claimed(tmp_path: Path) -> None:
    """Otherwise nobody could ever lock the file of the output before it."""
    with private_daemon(tmp_path / "daemon") as daemon, RawClient(daemon) as client:
        [disk] = make_disks(tmp_path, 1)
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        # For the admin client, the file and one socket.
        leave_descriptors(daemon, 3)
        outputs = f"3:file:{disk} 3:journald 3:syslog:locks"
        assert (
            LogControl(daemon).refused_outputs(outputs).message
            == "failed to open syslog: Too many open files"
        )
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        assert client.acquire(disk) is None


def test_the_watchdog_is_fed_without_a_free_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        with private_daemon(tmp_path / "daemon") as daemon, RawClient(daemon):
            while manager.recv(4096) != b"WATCHDOG=1":
                continue
            leave_descriptors(daemon, 0)
            for _ in range(5):
                while manager.recv(4096) != b"WATCHDOG=1":
                    continue
