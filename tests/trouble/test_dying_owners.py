"""Owners that die or cannot be killed, and reused pids: nobody else waits, and no lock ends too early."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

import pytest

from lockd.client.status import StatusConnection
from tests.forbid import forbidding
from tests.private_daemon import VIRTLOCKD, PrivateDaemon, private_daemon
from tests.raw_client import RawClient
from tests.trouble.conftest import MakeGuest
from tests.trouble.dropping_holders import observe
from tests.trouble.guest import Guest, Refused
from tests.trouble.hanging_filesystem import HangingFilesystem
from tests.trouble.stopwatch import Stopwatch
from tests.waiting import wait_until

NO_PROCESS = 4194303  # one below the largest pid_max (proc(5)): not in use


def can_acquire(guest: Guest, path: Path) -> bool:
    try:
        guest.acquire(path)
    except Refused:
        return False
    return True


Test = TypeVar("Test", bound=Callable[..., None])
Started = TypeVar("Started", bound="Guest | Stranger")


class Stranger:
    """A process that has no connection to the daemon."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["/bin/sleep", "infinity"])
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def with_pid(pid: int, start: Callable[[], Started]) -> Started:
    """Start a process that gets the given pid, which must be free."""
    while True:
        # The kernel gives the next new process the next pid, unless another process starts in between.
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        started = start()
        if started.pid == pid:
            return started
        started.__exit__(None, None, None)
        if Path(f"/proc/{pid}").exists():
            pytest.skip(f"the pid {pid} was given to a process outside this test")


def test_sixteen_holders_drop_out_at_once(
    daemon: PrivateDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    observation = observe(daemon, tmp_path)
    with capsys.disabled():
        print("", *observation.report(), sep="\n")
    assert observation.worst_wait < 0.1
    for holder in observation.holders:
        assert holder.dead_when_released, holder
        assert holder.died is not None
        assert holder.died < 2, holder
        asked_to_go = holder.manner == "live"
        if holder.manner != "zombie":
            assert holder.killed_by == (signal.SIGTERM if asked_to_go else signal.SIGKILL), holder


@pytest.mark.skipif(not VIRTLOCKD.exists(), reason="libvirt's virtlockd is not installed")
def test_virtlockd_stalls_and_releases_locks_of_living_holders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """virtlockd stalls all clients and releases locks of living holders: so `observe` can detect both."""
    with private_daemon(tmp_path / "daemon", VIRTLOCKD) as daemon:
        observation = observe(daemon, tmp_path, of_each=1)
    with capsys.disabled():
        print("", VIRTLOCKD, *observation.report(), sep="\n")
    assert observation.worst_wait > 1
    assert not all(holder.dead_when_released for holder in observation.holders)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="this needs root")


def chooses_pids(test: Test) -> Test:
    """Mark a test that starts a process with a pid of its choice: new processes of other tests would take the pid."""
    marked: Test = pytest.mark.alone(needs_root(test))
    return marked


@chooses_pids
def test_a_reused_pid_is_spared(make_guest: MakeGuest, disk: Path) -> None:
    """The holder dies, its connection is still open in another process, and a new process gets its pid."""
    holder, taker = make_guest(), make_guest()
    holder.acquire(disk)
    holder.kill()
    holder.reap()
    with with_pid(holder.pid, Stranger) as stranger:
        holder.drop_connection()
        wait_until(lambda: can_acquire(taker, disk), "the dead holder's lock is released")
        assert stranger.process.poll() is None
        taker.release(disk)


@chooses_pids
def test_a_pid_reused_before_the_daemon_looks_is_spared(
    daemon: PrivateDaemon, make_guest: MakeGuest, disk: Path
) -> None:
    """The daemon learns at the same moment of the holder's death, and of the end of its connection."""
    holder, taker = make_guest(), make_guest()
    holder.acquire(disk)
    daemon.stop()
    holder.kill()
    holder.reap()
    with with_pid(holder.pid, Stranger) as stranger:
        holder.drop_connection()
        daemon.signal(signal.SIGCONT)
        wait_until(lambda: can_acquire(taker, disk), "the dead holder's lock is released")
        assert stranger.process.poll() is None
        taker.release(disk)


@chooses_pids
def test_a_reused_pid_is_not_the_owner(make_guest: MakeGuest, disk: Path) -> None:
    """A lock ends with its owner's process; a later process with the same pid does not get it."""
    taker = make_guest()
    with Stranger() as owner:
        make_guest(owner_pid=owner.pid).acquire(disk)
        owner.end()
        with with_pid(owner.pid, Stranger):
            wait_until(lambda: can_acquire(taker, disk), "the dead owner's lock is released")
            with pytest.raises(Refused, match=r"owner \d+ does not hold the resource lock"):
                make_guest(owner_pid=owner.pid).release(disk)
            taker.release(disk)


@chooses_pids
def test_the_next_process_of_a_pid_keeps_its_locks_when_the_first_ones_connection_ends(
    daemon: PrivateDaemon, make_guest: MakeGuest, disk: Path, tmp_path: Path
) -> None:
    leaving, first, taker = make_guest(), make_guest(), make_guest()
    first.acquire(disk)
    first.kill()
    first.reap()
    wait_until(lambda: can_acquire(taker, disk), "the dead holder's lock is released")
    taker.release(disk)
    leaving.drop_connection()  # its descriptor numbers are now the next to be used in the daemon
    with with_pid(first.pid, lambda: Guest(daemon.socket)) as second:
        second.acquire(disk)
        first.drop_connection()
        make_guest()  # when the daemon has answered this guest, it has handled the end of that connection
        assert not can_acquire(taker, disk)
        assert not second.is_dead
        second.release(disk)


@chooses_pids
def test_a_dead_owners_connection_takes_nothing_from_the_next_process_of_its_pid(
    daemon: PrivateDaemon, make_guest: MakeGuest, disk: Path, tmp_path: Path
) -> None:
    """A process that has inherited the connection cannot act for the dead owner, whose pid is reused."""
    free = tmp_path / "free"
    free.touch()
    first = make_guest()
    first.kill()
    first.reap()
    with with_pid(first.pid, lambda: Guest(daemon.socket)) as second:
        second.acquire(disk)
        for call, path in ((first.release, disk), (first.acquire, free)):
            with pytest.raises(Refused, match=f"owner process {first.pid} has ended"):
                call(path)
        assert not can_acquire(make_guest(), disk)
        second.release(disk)


def test_only_the_holder_is_fenced_when_libvirtd_releases_its_locks_meanwhile(
    make_guest: MakeGuest, disk: Path
) -> None:
    """By then the holder has neither lock nor connection; the next guest gets their descriptor numbers."""
    holder = make_guest()
    holder.ignore_sigterm()
    holder.acquire(disk)
    holder.drop_connection()
    libvirtd = make_guest(owner_pid=holder.pid)
    libvirtd.release(disk)
    libvirtd.drop_connection()
    guest = make_guest()
    guest.acquire(disk)
    holder.wait_for_death()
    assert holder.reap() == signal.SIGKILL
    assert not guest.is_dead
    guest.release(disk)


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "disconnected"])
def test_an_owner_that_another_process_registered_is_watched(
    make_guest: MakeGuest, disk: Path, connected: bool
) -> None:
    """libvirtd registers a guest like this. The lock outlives the connection, and ends with the guest."""
    taker = make_guest()
    with Stranger() as owner:
        registrar = make_guest(owner_pid=owner.pid)
        registrar.acquire(disk)
        if not connected:
            registrar.drop_connection()
        assert not can_acquire(taker, disk)
        owner.end()
        wait_until(lambda: can_acquire(taker, disk), "the dead owner's lock is released")
        assert not registrar.is_dead
    taker.release(disk)


def test_an_owner_that_ends_before_its_acquire_begins_gets_no_lock(
    make_guest: MakeGuest, daemon: PrivateDaemon, disk: Path
) -> None:
    """The daemon learns at the same moment of a call that a thread has to carry out, and of the owner's death."""
    link = disk.with_name("link")
    link.symlink_to(disk)
    taker = make_guest()
    with Stranger() as owner:
        registrar = make_guest(owner_pid=owner.pid)
        daemon.stop()
        registrar.send_acquire(link)
        owner.end()
        daemon.signal(signal.SIGCONT)
        with pytest.raises(Refused, match=f"owner process {owner.pid} has ended"):
            registrar.reply()
    taker.acquire(disk)
    taker.release(disk)


@chooses_pids
def test_who_gets_the_pid_of_an_owner_that_was_dead_is_another_owner(
    make_guest: MakeGuest, daemon: PrivateDaemon, disk: Path
) -> None:
    """libvirtd registers a guest that has just died. A later guest with its pid is watched, and fenced."""
    dead = Stranger()
    dead.end()
    taker = make_guest()
    make_guest(owner_pid=dead.pid).acquire(disk)
    assert not can_acquire(taker, disk)
    with with_pid(dead.pid, lambda: Guest(daemon.socket)) as guest:
        assert can_acquire(taker, disk), "the dead owner's lock has ended"
        taker.release(disk)
        guest.acquire(disk)
        guest.drop_connection()
        wait_until(lambda: can_acquire(taker, disk), "the guest's lock is released")
        assert guest.is_dead
        taker.release(disk)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSYS, "Function not implemented; lockd needs Linux 5.3 or later"),
        (errno.EPERM, "Operation not permitted; allow the lock daemon the system call pidfd_open"),
        (errno.ENFILE, "Too many open files in system; the host has too many open files"),
    ],
)
def test_nobody_registers_an_owner_that_cannot_be_watched(tmp_path: Path, number: int, advice: str) -> None:
    """Only ESRCH means that there is no such process. The client is told, and the log at the start too."""
    wrapper = forbidding(pidfd_open=number)
    with (
        private_daemon(tmp_path / "daemon", wrapper=wrapper) as daemon,
        RawClient(daemon, None) as client,
        Stranger() as owner,
    ):
        message = f"Unable to watch over owner {owner.pid}: {advice}"
        assert (client.register(owner.pid) or "").startswith(message)
        assert client.create_lockspace(tmp_path / "leases") is None, "the connection is open"
        assert message in daemon.log.read_text()
        assert "no owner can be watched, so none can register: pidfd_open" in daemon.log.read_text()


@pytest.mark.parametrize("days_up", [0, pytest.param(9, marks=needs_root)])
def test_a_guest_is_watched_where_the_kernel_cannot_tell_who_connected(
    tmp_path: Path, disk: Path, days_up: int
) -> None:
    """Without SO_PEERPIDFD, before Linux 6.5: also in a time namespace, where the host seems to be up for longer."""
    wrapper = forbidding(so_peerpidfd=errno.ENOPROTOOPT)
    if days_up:
        wrapper = [
            "unshare",
            "--time",
            "--boottime",
            str(days_up * 86400),
            "--fork",
            "--kill-child",
            *wrapper,
        ]
    with private_daemon(tmp_path / "daemon", wrapper=wrapper) as daemon, Guest(daemon.socket) as taker:
        for drops in (True, False):
            with Guest(daemon.socket) as holder:
                holder.acquire(disk)
                if drops:
                    holder.drop_connection()
                else:
                    holder.kill()
                wait_until(lambda: can_acquire(taker, disk), "the holder's lock is released")
                assert holder.is_dead
                taker.release(disk)


def test_an_owner_that_cannot_be_killed_keeps_its_lock_until_it_is_gone(tmp_path: Path, disk: Path) -> None:
    """A guest of another user, or a filter of system calls: pidfd_send_signal(2) says EPERM."""
    wrapper = forbidding(pidfd_send_signal=errno.EPERM)
    with private_daemon(tmp_path / "daemon", wrapper=wrapper) as daemon, Guest(daemon.socket) as taker:
        with Guest(daemon.socket) as holder:
            holder.acquire(disk)
            holder.drop_connection()
            reason = f'"{holder.name}" (pid {holder.pid}) cannot be killed: Operation not permitted'
            wait_until(lambda: reason in daemon.log.read_text(), "the daemon says that it cannot kill")
            assert not can_acquire(taker, disk)
            assert not holder.is_dead
        wait_until(lambda: can_acquire(taker, disk), "the dead holder's lock is released")
        assert daemon.log.read_text().count("cannot be killed") == 1
        assert "Traceback" not in daemon.log.read_text()
        taker.release(disk)


def test_an_owner_that_is_no_process_of_this_host_keeps_its_lock(make_guest: MakeGuest, disk: Path) -> None:
    """It may live in another pid namespace, so the daemon does not release its lock by itself."""
    registrar, taker = make_guest(owner_pid=NO_PROCESS), make_guest()
    registrar.acquire(disk)
    registrar.drop_connection()
    assert not can_acquire(taker, disk)
    make_guest(owner_pid=NO_PROCESS).release(disk)
    assert can_acquire(taker, disk)
    taker.release(disk)


@pytest.mark.parametrize("in_thread", [False, True], ids=["process", "thread"])
def test_an_owner_in_uninterruptible_sleep_keeps_its_lock_until_it_is_gone(
    daemon: PrivateDaemon,
    filesystem: HangingFilesystem,
    make_guest: MakeGuest,
    disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    in_thread: bool,
) -> None:
    """If a second thread sleeps, the first one may be a zombie, but the process is not dead."""
    remote, own = filesystem.path / "file", tmp_path / "own"
    remote.touch()
    own.touch()
    holder, bystander = make_guest(), make_guest()
    holder.acquire(disk)
    hung = filesystem.arrived("open") + 1
    filesystem.hang("open")
    if in_thread:
        holder.open_in_thread(remote)
    else:
        holder.open(remote)
    filesystem.wait_for("open", hung)
    dropped = time.time()
    holder.drop_connection()
    filesystem.wait_for("interrupt")  # the kernel sends this to the server when the holder gets a signal
    with StatusConnection.connect(daemon.admin_socket) as status:
        (lock,) = status.locks()
    assert lock["owners"][0]["pid"] == holder.pid
    assert dropped <= lock["owners"][0]["fencing_since"] <= time.time()
    worst = 0.0
    stopwatch = Stopwatch(daemon.pid)
    start = time.monotonic()
    while time.monotonic() - start < 4:  # virtlockd gives up after 3
        assert not can_acquire(bystander, disk)
        worst = max(worst, *(stopwatch.time(call, own) for call in (bystander.acquire, bystander.release)))
    with capsys.disabled():
        print(f"\nworst wait of an unrelated client: {worst * 1000:.1f} ms")
    assert worst < 0.1
    assert not holder.is_dead
    filesystem.release_all()
    holder.wait_for_death()
    wait_until(lambda: can_acquire(bystander, disk), "the dead holder's lock is released")
    bystander.release(disk)
