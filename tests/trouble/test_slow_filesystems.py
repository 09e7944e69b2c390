"""File servers that do not answer: only clients that ask for their files wait, and are answered later."""

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from lockd.wire.lock import AcquireFlags
from tests.private_daemon import PrivateDaemon
from tests.trouble.conftest import MakeGuest, Stage
from tests.trouble.guest import Guest, Refused
from tests.trouble.hanging_filesystem import TOO_LONG, HangingFilesystem, ServerLock
from tests.trouble.stopwatch import Stopwatch
from tests.waiting import wait_until

SHORT = 0.1  # seconds: the longest that a client may wait because of another client's file server
ATTENTION = 0.2  # seconds: how long calls are made to measure that
UPGRADE = 2.0  # seconds: enough for a live upgrade
LONGEST_UPGRADE = (
    1.0  # seconds: how long clients may wait during an upgrade, which starts Python and trio anew
)
LONGEST_SHUTDOWN = 2.0  # seconds
LONGER_THAN_IT_TAKES_TO_FENCE = 0.5  # seconds; a living holder gets SIGTERM after 0.1
HUNG_CALLS = 25  # for each of two servers: together more than the 40 threads that trio has by default


class Bystander:
    """A guest with a local disk, which must not notice that a file server hangs."""

    def __init__(self, guest: Guest, directory: Path, daemon: PrivateDaemon) -> None:
        self.guest = guest
        self._stopwatch = Stopwatch(daemon.pid)
        self.disk = directory / f"{guest.name}.disk"
        self.disk.touch()

    def worst_wait(self, seconds: float = ATTENTION) -> float:
        """Make one call after the other for `seconds`; return the duration of the longest, in seconds."""
        worst = 0.0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for call in (self.guest.acquire, self.guest.release):
                worst = max(worst, self._stopwatch.time(call, self.disk))
        return worst


@pytest.fixture
def bystander(daemon: PrivateDaemon, make_guest: MakeGuest, tmp_path: Path) -> Bystander:
    return Bystander(make_guest(), tmp_path, daemon)


@pytest.fixture
def remote(filesystem: HangingFilesystem) -> Path:
    """A disk on a file server that can hang."""
    path = filesystem.path / "disk"
    path.touch()
    return path


def hang_in_acquire(guest: Guest, filesystem: HangingFilesystem, disk: Path, operation: str) -> None:
    """Have the guest's acquire hang in the given operation."""
    before = filesystem.arrived(operation)
    filesystem.hang(operation)
    guest.send_acquire(disk)
    filesystem.wait_for(operation, before + 1)


def hang_in_release(guest: Guest, filesystem: HangingFilesystem, disk: Path) -> None:
    """Have the guest's release hang in the close."""
    before = filesystem.arrived("flush")
    filesystem.hang("flush")
    guest.send_release(disk)
    filesystem.wait_for("flush", before + 1)


def can_acquire(guest: Guest, path: Path) -> bool:
    try:
        guest.acquire(path)
    except Refused:
        return False
    return True


@pytest.mark.parametrize("operation", ["lookup", "open", "setlk"])
def test_an_acquire_that_hangs_is_answered_when_the_server_is_back(
    daemon: PrivateDaemon,
    filesystem: HangingFilesystem,
    remote: Path,
    make_guest: MakeGuest,
    bystander: Bystander,
    operation: str,
) -> None:
    guest, rival = make_guest(), make_guest()
    hang_in_acquire(guest, filesystem, remote, operation)
    assert bystander.worst_wait() < SHORT
    with pytest.raises(Refused, match="is locked being acquired by"):
        rival.acquire(remote)
    assert not guest.has_reply()
    filesystem.release_all()
    guest.reply()
    assert filesystem.locks() == [ServerLock("disk", daemon.pid, exclusive=True)]
    with pytest.raises(Refused, match="is locked"):
        rival.acquire(remote)
    guest.release(remote)
    assert filesystem.locks() == []
    rival.acquire(remote)
    rival.release(remote)


def test_a_release_that_hangs_is_answered_when_the_server_is_back(
    filesystem: HangingFilesystem, remote: Path, make_guest: MakeGuest, bystander: Bystander
) -> None:
    guest, rival = make_guest(), make_guest()
    guest.acquire(remote)
    hang_in_release(guest, filesystem, remote)
    assert bystander.worst_wait() < SHORT
    with pytest.raises(Refused, match="is locked"):
        rival.acquire(remote)
    assert not guest.has_reply()
    filesystem.release_all()
    guest.reply()
    rival.acquire(remote)
    rival.release(remote)


def test_a_path_that_leads_to_a_hung_server_by_a_link_hangs_nobody_else(
    filesystem: HangingFilesystem, remote: Path, make_guest: MakeGuest, bystander: Bystander, tmp_path: Path
) -> None:
    to_disk, to_directory = tmp_path / "to-disk", tmp_path / "to-directory"
    to_disk.symlink_to(remote)
    to_directory.symlink_to(filesystem.path)
    filesystem.hang("everything")
    guests = {make_guest(): path for path in (to_disk, to_directory / "disk")}
    for guest, path in guests.items():
        guest.send_acquire(path)
    assert bystander.worst_wait() < SHORT
    filesystem.release_all()
    granted = []
    for guest in guests:
        try:
            guest.reply()
        except Refused:
            continue
        granted.append(guest)
    assert len(granted) == 1  # two names of one file
    granted[0].release(guests[granted[0]])


def test_a_path_into_the_mounts_of_another_process_hangs_nobody_else(
    stage: Stage, daemon: PrivateDaemon, make_guest: MakeGuest, bystander: Bystander, tmp_path: Path
) -> None:
    """Any user can make such a link to a process in mount and user namespaces of its own."""
    with subprocess.Popen(["unshare", "--mount", "cat"], stdin=subprocess.PIPE) as stranger:
        own = Path("/proc/self/ns/mnt").readlink()
        wait_until(lambda: Path(f"/proc/{stranger.pid}/ns/mnt").readlink() != own, "it has its own mounts")
        filesystem = stage.mount("hidden", namespace_of=stranger.pid)
        filesystem.make("disk")
        images = tmp_path / "images"
        images.symlink_to(f"/proc/{stranger.pid}/root{filesystem.path}")
        guest = make_guest()
        filesystem.hang("everything")
        guest.send_acquire(images / "disk")
        filesystem.wait_for("opendir")
        assert bystander.worst_wait() < SHORT
        filesystem.release_all()
        guest.reply()
        guest.release(images / "disk")


@pytest.mark.parametrize(("mode", "owned"), [(0o755, "home"), (0o1777, "home/images")], ids=["home", "tmp"])
def test_a_directory_that_its_owner_replaces_by_a_link_to_a_hung_server_hangs_nobody_else(
    filesystem: HangingFilesystem,
    remote: Path,
    make_guest: MakeGuest,
    bystander: Bystander,
    tmp_path: Path,
    mode: int,
    owned: str,
) -> None:
    """In a directory like /tmp they need not own the directory above."""
    home = tmp_path / "home"
    (home / "images").mkdir(parents=True)
    (home / "images" / "disk").touch()
    home.chmod(mode)
    os.chown(tmp_path / owned, 1000, 1000)
    guest = make_guest()
    guest.acquire(home / "images" / "disk")
    guest.release(home / "images" / "disk")
    (home / "images").rename(home / "before")
    (home / "images").symlink_to(filesystem.path)
    filesystem.hang("everything")
    guest.send_acquire(home / "images" / "disk")
    assert bystander.worst_wait() < SHORT
    filesystem.release_all()
    guest.reply()
    guest.release(home / "images" / "disk")
    assert filesystem.locks() == []


def test_a_lockspace_on_a_hung_server_hangs_nobody_else(
    filesystem: HangingFilesystem, make_guest: MakeGuest, bystander: Bystander
) -> None:
    """The lockspace is created, a lease is acquired in it and released; each step hangs for a while."""
    guest = make_guest()
    lockspace, lease = filesystem.path / "leases", Path("lease")
    steps = {
        "mkdir": partial(guest.send_create_lockspace, lockspace),
        "mknod": partial(guest.send_acquire, lease, str(lockspace), AcquireFlags.AUTOCREATE),
        "unlink": partial(guest.send_release, lease, str(lockspace)),
    }
    for operation, send in steps.items():
        filesystem.hang(operation)
        send()
        filesystem.wait_for(operation)
        assert bystander.worst_wait() < SHORT
        assert not guest.has_reply()
        filesystem.release_all()
        guest.reply()
    assert not (lockspace / lease).exists()
    assert filesystem.locks() == []


def test_two_hung_servers_do_not_hold_up_a_healthy_one(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hung, healthy = [stage.mount("hung1"), stage.mount("hung2")], stage.mount("healthy")
    daemon = stage.start_daemon()
    bystanders = [
        Bystander(stage.start_guest(daemon), directory, daemon) for directory in (tmp_path, healthy.path)
    ]
    waiting: list[tuple[Guest, Path]] = []
    for server in hung:
        disks = [server.path / str(number) for number in range(HUNG_CALLS)]
        for disk in disks:
            disk.touch()
            waiting.append((stage.start_guest(daemon), disk))
    before = [server.arrived("opendir") for server in hung]
    for server in hung:
        server.hang("everything")
    for guest, disk in waiting:
        guest.send_acquire(disk)
    for server, count in zip(hung, before, strict=True):
        server.wait_for("opendir", count + 1)
    worst = [bystander.worst_wait() for bystander in bystanders]
    with capsys.disabled():
        print(
            f"\nworst wait beside {len(waiting)} calls that hang: local disk {worst[0] * 1000:.1f} ms,"
            f" healthy server {worst[1] * 1000:.1f} ms"
        )
    assert max(worst) < SHORT
    for server in hung:
        server.release_all()
    for guest, disk in waiting:
        guest.reply()
        guest.release(disk)


@pytest.mark.parametrize("operation", ["open", "setlk"])
def test_a_guest_that_dies_while_its_acquire_hangs_gets_no_lock(
    filesystem: HangingFilesystem, remote: Path, make_guest: MakeGuest, bystander: Bystander, operation: str
) -> None:
    guest, rival = make_guest(), make_guest()
    hang_in_acquire(guest, filesystem, remote, operation)
    guest.kill()
    guest.reap()
    guest.drop_connection()
    assert bystander.worst_wait() < SHORT
    assert not can_acquire(rival, remote)
    filesystem.release_all()
    wait_until(lambda: can_acquire(rival, remote), "the file is free")
    assert len(filesystem.locks()) == 1
    rival.release(remote)
    assert filesystem.locks() == []


def test_a_guest_that_only_leaves_while_its_acquire_hangs_is_not_killed(
    filesystem: HangingFilesystem, remote: Path, make_guest: MakeGuest, bystander: Bystander
) -> None:
    """The guest was never told that it has the lock, so it cannot rely on it."""
    guest, rival = make_guest(), make_guest()
    hang_in_acquire(guest, filesystem, remote, "open")
    guest.drop_connection()
    bystander.worst_wait(LONGER_THAN_IT_TAKES_TO_FENCE)
    filesystem.release_all()
    wait_until(lambda: can_acquire(rival, remote), "the file is free")
    assert not guest.is_dead
    rival.release(remote)


def test_the_lock_of_a_guest_that_dies_while_its_release_hangs_ends(
    filesystem: HangingFilesystem, remote: Path, make_guest: MakeGuest, bystander: Bystander
) -> None:
    guest, rival = make_guest(), make_guest()
    guest.acquire(remote)
    hang_in_release(guest, filesystem, remote)
    guest.kill()
    guest.reap()
    guest.drop_connection()
    assert bystander.worst_wait() < SHORT
    assert not can_acquire(rival, remote)
    filesystem.release_all()
    wait_until(lambda: can_acquire(rival, remote), "the file is free")
    rival.release(remote)


def test_the_close_of_a_dead_guests_disk_holds_up_nobody_else(
    filesystem: HangingFilesystem, remote: Path, make_guest: MakeGuest, bystander: Bystander
) -> None:
    """No client asked for this close: the daemon closes a disk by itself when its owner has died."""
    guest, rival = make_guest(), make_guest()
    guest.acquire(remote)
    before = filesystem.arrived("flush")
    filesystem.hang("flush")
    guest.kill()
    guest.reap()
    guest.drop_connection()
    filesystem.wait_for("flush", before + 1)
    assert bystander.worst_wait() < SHORT
    assert not can_acquire(rival, remote)
    filesystem.release_all()
    wait_until(lambda: can_acquire(rival, remote), "the file is free")
    rival.release(remote)


@pytest.mark.parametrize("operation", ["open", "setlk"])
def test_a_live_upgrade_while_an_acquire_hangs_loses_no_call(
    daemon: PrivateDaemon,
    filesystem: HangingFilesystem,
    remote: Path,
    make_guest: MakeGuest,
    bystander: Bystander,
    operation: str,
) -> None:
    """Other clients are served, and the call is answered once, before the upgrade or after it."""
    guest, rival = make_guest(), make_guest()
    hang_in_acquire(guest, filesystem, remote, operation)
    image = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    assert bystander.worst_wait(UPGRADE) < LONGEST_UPGRADE
    assert not can_acquire(rival, remote)
    filesystem.release_all()
    guest.reply()
    wait_until(lambda: daemon.running_image() != image, "the daemon has replaced itself")
    assert bystander.worst_wait() < LONGEST_UPGRADE
    assert not can_acquire(rival, remote)
    assert filesystem.locks() == [ServerLock("disk", daemon.pid, exclusive=True)]
    guest.release(remote)
    assert not guest.has_reply()
    assert filesystem.locks() == []
    assert can_acquire(rival, remote)
    rival.release(remote)


def test_a_live_upgrade_while_more_calls_hang_than_there_are_threads_loses_no_call(
    daemon: PrivateDaemon, filesystem: HangingFilesystem, make_guest: MakeGuest, bystander: Bystander
) -> None:
    """Some calls hang, some wait for a thread. Each is answered once, before the upgrade or after it."""
    disks = [filesystem.path / str(number) for number in range(HUNG_CALLS)]
    for disk in disks:
        disk.touch()
    guests = {make_guest(): disk for disk in disks}
    before = filesystem.arrived("open")
    filesystem.hang("open")
    for guest, disk in guests.items():
        guest.send_acquire(disk)
    filesystem.wait_for("open", before + 1)
    image = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    assert bystander.worst_wait(UPGRADE) < LONGEST_UPGRADE
    filesystem.release_all()
    for guest in guests:
        guest.reply()
    wait_until(lambda: daemon.running_image() != image, "the daemon has replaced itself")
    assert len(filesystem.locks()) == HUNG_CALLS
    for guest, disk in guests.items():
        guest.release(disk)
        assert not guest.has_reply()
    assert filesystem.locks() == []


def test_a_live_upgrade_while_the_server_of_a_held_lock_hangs_keeps_the_lock(
    daemon: PrivateDaemon,
    filesystem: HangingFilesystem,
    remote: Path,
    make_guest: MakeGuest,
    bystander: Bystander,
) -> None:
    """A process that the daemon starts has a copy of the disk's descriptor.

    Only that process hangs when it closes.
    """
    guest, rival = make_guest(), make_guest()
    guest.acquire(remote)
    filesystem.hang("everything")
    image = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    assert bystander.worst_wait(UPGRADE) < LONGEST_UPGRADE
    assert not can_acquire(rival, remote)
    filesystem.release_all()
    wait_until(lambda: daemon.running_image() != image, "the daemon has replaced itself")
    assert not can_acquire(rival, remote)
    assert "was taken over, but" not in daemon.log.read_text()
    assert filesystem.locks() == [ServerLock("disk", daemon.pid, exclusive=True)]
    guest.release(remote)
    assert filesystem.locks() == []


def test_a_live_upgrade_while_a_release_hangs_loses_no_call(
    daemon: PrivateDaemon,
    filesystem: HangingFilesystem,
    remote: Path,
    make_guest: MakeGuest,
    bystander: Bystander,
) -> None:
    guest, rival = make_guest(), make_guest()
    guest.acquire(remote)
    hang_in_release(guest, filesystem, remote)
    image = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    assert bystander.worst_wait(UPGRADE) < LONGEST_UPGRADE
    filesystem.release_all()
    guest.reply()
    wait_until(lambda: daemon.running_image() != image, "the daemon has replaced itself")
    assert can_acquire(rival, remote)
    rival.release(remote)
    assert not guest.has_reply()
    assert filesystem.locks() == []


def test_a_shutdown_while_an_acquire_hangs_disconnects_everybody_at_once(
    daemon: PrivateDaemon,
    filesystem: HangingFilesystem,
    remote: Path,
    make_guest: MakeGuest,
    bystander: Bystander,
) -> None:
    """All connections are closed at once, although the process cannot end before the server answers."""
    guest = make_guest()
    hang_in_acquire(guest, filesystem, remote, "open")
    start = time.monotonic()
    daemon.signal(signal.SIGTERM)
    for connected in (guest, bystander.guest):
        with pytest.raises(ConnectionResetError):
            connected.reply()
    assert time.monotonic() - start < LONGEST_SHUTDOWN
    filesystem.release_all()
    assert daemon.process.wait(TOO_LONG) == 0
    assert filesystem.locks() == []


def a_guest_of_a_new_daemon(stage: Stage, daemon: PrivateDaemon, bystander: Bystander) -> Guest:
    """End a daemon, which disconnects everybody, and return a guest of a new one, which serves it."""
    daemon.signal(signal.SIGTERM)
    with pytest.raises(ConnectionResetError):
        bystander.guest.reply()
    guest = stage.start_guest(stage.start_daemon())
    guest.acquire(bystander.disk)
    guest.release(bystander.disk)
    return guest


def test_a_new_daemon_serves_while_the_old_one_cannot_end(
    stage: Stage, daemon: PrivateDaemon, filesystem: HangingFilesystem, remote: Path, bystander: Bystander
) -> None:
    hang_in_acquire(stage.start_guest(daemon), filesystem, remote, "open")
    guest = a_guest_of_a_new_daemon(stage, daemon, bystander)
    filesystem.release_all()
    assert daemon.process.wait(TOO_LONG) == 0
    guest.acquire(remote)
    guest.release(remote)


def test_a_new_daemon_serves_while_the_check_of_the_next_program_hangs(
    stage: Stage, daemon: PrivateDaemon, filesystem: HangingFilesystem, remote: Path, bystander: Bystander
) -> None:
    """The process that is asked for its version hangs when it closes its copy of the disk's descriptor."""
    stage.start_guest(daemon).acquire(remote)
    before = filesystem.arrived("flush")
    filesystem.hang("flush")
    daemon.signal(signal.SIGUSR1)
    filesystem.wait_for("flush", before + 1)
    a_guest_of_a_new_daemon(stage, daemon, bystander)
    filesystem.release_all()
    assert daemon.process.wait(TOO_LONG) == 0


def test_a_file_system_that_is_mounted_while_the_daemon_runs_is_known_to_be_slow(
    stage: Stage, daemon: PrivateDaemon, make_guest: MakeGuest, bystander: Bystander
) -> None:
    filesystem = stage.mount("late", namespace_of=daemon.pid)
    guest = make_guest()
    filesystem.hang("everything")
    guest.send_acquire(filesystem.path / "missing")
    filesystem.wait_for("opendir")
    assert bystander.worst_wait() < SHORT
    filesystem.release_all()
    with pytest.raises(Refused, match="No such file or directory"):
        guest.reply()


def test_a_file_system_that_hides_a_local_one_is_known_to_be_slow(
    stage: Stage, daemon: PrivateDaemon, make_guest: MakeGuest, bystander: Bystander, tmp_path: Path
) -> None:
    """A mount below the mount point becomes invisible, but stays in the kernel's mount table."""
    hidden = tmp_path / "late" / "below"
    hidden.mkdir(parents=True)
    daemon.run_inside("mount", "-t", "tmpfs", "hidden", str(hidden))
    filesystem = stage.mount("late", namespace_of=daemon.pid)
    guest = make_guest()
    filesystem.hang("everything")
    guest.send_acquire(hidden / "disk")
    filesystem.wait_for("lookup")
    assert bystander.worst_wait() < SHORT
    filesystem.release_all()
    with pytest.raises(Refused, match="No such file or directory"):
        guest.reply()


def test_a_single_file_that_is_mounted_from_a_hung_server_hangs_nobody_else(
    daemon: PrivateDaemon,
    filesystem: HangingFilesystem,
    remote: Path,
    make_guest: MakeGuest,
    bystander: Bystander,
    tmp_path: Path,
) -> None:
    local_name = tmp_path / "bound"
    local_name.touch()
    daemon.run_inside("mount", "--bind", str(remote), str(local_name))
    guest = make_guest()
    filesystem.hang("open")
    guest.send_acquire(local_name)
    filesystem.wait_for("open")
    assert bystander.worst_wait() < SHORT
    filesystem.release_all()
    guest.reply()
    guest.release(local_name)
