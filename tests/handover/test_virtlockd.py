"""The real virtlockd takes over from lockd, and lockd from virtlockd; clients notice nothing."""

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from lockd.client.errors import Refused as StatusRefused
from lockd.client.status import StatusConnection
from lockd.wire import lock
from lockd.wire.lock import AcquireFlags, Procedure
from tests.container import Container
from tests.handover.conftest import MakeDisk
from tests.handover.program import Program, answers, refused_upgrade, said, upgrade
from tests.handover.test_kept import call, read_replies
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import VIRTLOCKD, PrivateDaemon, private_daemon
from tests.raw_client import RawClient
from tests.trouble.guest import Guest, Refused
from tests.trouble.test_dying_owners import chooses_pids, with_pid
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not VIRTLOCKD.exists(), reason=f"{VIRTLOCKD} is not there")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")

CHAIN = ["lockd", "lockd", "virtlockd", "virtlockd", "lockd", "virtlockd", "lockd"]


def running(daemon: PrivateDaemon) -> str:
    """Return the name of the program that runs now."""
    is_virtlockd = Path(f"/proc/{daemon.pid}/exe").resolve().name == "virtlockd"
    return "virtlockd" if is_virtlockd else "lockd"


def change_to(daemon: PrivateDaemon, program: Program, name: str) -> None:
    program.install(name)
    upgrade(daemon)
    assert running(daemon) == name


class Host:
    """A daemon with guests. `begin` starts the daemon."""

    def __init__(self, directory: Path) -> None:
        self.program = Program(directory / "sbin")
        self._directory = directory
        self._stack = ExitStack()

    def begin(self, name: str, settings: str = "") -> PrivateDaemon:
        self.program.install(name)
        self.daemon = self._stack.enter_context(
            private_daemon(self._directory / "daemon", self.program.path, settings=settings)
        )
        return self.daemon

    def make_guest(self) -> Guest:
        return self._stack.enter_context(Guest(self.daemon.socket))

    def change_to(self, name: str) -> None:
        change_to(self.daemon, self.program, name)

    def end(self) -> None:
        self._stack.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.end()


def test_locks_survive_changes_between_virtlockd_and_lockd(
    host: Host, make_disk: MakeDisk, tmp_path: Path
) -> None:
    """With exclusive and shared locks, a lease file, a restricted client, and calls between the changes."""
    daemon = host.begin("virtlockd")
    guests = [host.make_guest() for _ in range(3)]
    disks = [make_disk() for _ in guests]
    shared, lockspace = make_disk(), tmp_path / "leases"
    guests[0].create_lockspace(lockspace)
    guests[0].acquire(Path("lease"), str(lockspace), AcquireFlags.AUTOCREATE)
    for guest, disk in zip(guests, disks, strict=True):
        guest.acquire(disk)
        guest.acquire(shared, flags=AcquireFlags.SHARED)
    guests[0].send(Procedure.RESTRICT, lock.encode_flags())
    guests[0].reply()
    with daemon.connect() as unregistered:
        for name in CHAIN:
            if running(daemon) == "virtlockd":
                # virtlockd ends if it replaces itself while a client has not registered.
                unregistered.close()
                wait_until(lambda: answers(daemon), "virtlockd has handled the end of the connection")
            host.change_to(name)
            for disk in disks:
                assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
            assert locks_on(shared) == [KernelLock("READ", daemon.pid)]
            assert locks_on(lockspace / "lease") == [KernelLock("WRITE", daemon.pid)]
            with pytest.raises(Refused, match="connection has been restricted"):
                guests[0].release(disks[0])
            with pytest.raises(Refused, match="is locked"):
                guests[1].acquire(disks[2])
            guests[1].release(disks[1])
            guests[2].acquire(disks[1])
            guests[2].release(disks[1])
            guests[1].acquire(disks[1])
            guests[2].release(shared)
            guests[2].acquire(shared, flags=AcquireFlags.SHARED)
            assert not any(guest.has_reply() for guest in guests)
    assert running(daemon) == "lockd"
    with StatusConnection.connect(daemon.admin_socket) as status:
        held = list(status.locks())
    assert {owner["name"] for entry in held for owner in entry["owners"]} == {g.name for g in guests}
    assert not any(entry["doubt"] for entry in held)
    for guest in guests:
        guest.kill()
        guest.reap()
        guest.drop_connection()
    for path in (*disks, shared, lockspace / "lease"):
        wait_until(lambda path=path: locks_on(path) == [], "the dead guests' locks are released")  # type: ignore[misc]
    assert not (lockspace / "lease").exists()


def test_unregistered_clients_are_taken_over_by_virtlockd(host: Host, make_disk: MakeDisk) -> None:
    daemon, disk = host.begin("lockd"), make_disk()
    guest = host.make_guest()
    guest.acquire(disk)
    with daemon.connect() as unregistered:
        assert answers(daemon)
        host.change_to("virtlockd")
        unregistered.sendall(call(1, Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(disk))))
        assert b"lock owner details have not been registered" in read_replies(unregistered, 1)[0].payload
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]


def test_half_a_call_delays_the_change_to_virtlockd(host: Host, make_disk: MakeDisk) -> None:
    """virtlockd would take the rest of a call for a new call, and disconnect: lockd waits for the rest."""
    daemon, disk = host.begin("lockd"), make_disk()
    guest = host.make_guest()
    acquire = call(7, Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(disk)))
    guest.connection.sendall(acquire[:20])
    assert answers(daemon)
    host.program.install("virtlockd")
    image = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert answers(daemon)
    assert daemon.running_image() == image
    guest.connection.sendall(acquire[20:])
    assert [reply.serial for reply in read_replies(guest.connection, 1)] == [7]
    wait_until(lambda: daemon.running_image() not in {image, b""}, "virtlockd has taken over")
    assert answers(daemon)
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    guest.release(disk)


def test_a_client_that_never_finishes_its_call_keeps_virtlockd_from_taking_over(
    host: Host, make_disk: MakeDisk
) -> None:
    daemon, disk = host.begin("lockd"), make_disk()
    guest = host.make_guest()
    guest.acquire(disk)
    guest.connection.sendall(b"\0\0")
    assert answers(daemon)
    host.program.install("virtlockd")
    log = refused_upgrade(daemon)
    assert "virtlockd cannot take over now, as client" in log
    assert f'domain "{guest.name}" (pid {guest.pid}), has sent half a call' in log
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    host.program.install("lockd")
    upgrade(daemon)


def test_a_state_that_virtlockd_cannot_read_stays_with_lockd(host: Host, make_disk: MakeDisk) -> None:
    """virtlockd reads 10 MiB at most and would end, and all locks would be lost. lockd has no limit."""
    daemon, disk = host.begin("lockd"), make_disk()
    guest = host.make_guest()
    guest.acquire(disk)
    owner = lock.Owner(uuid4(), "x" * 65000, 1, os.getpid())
    with ExitStack() as stack:
        clients = [stack.enter_context(daemon.connect()) for _ in range(170)]
        for client in clients:
            client.sendall(call(1, Procedure.REGISTER, lock.encode_register(owner)))
            read_replies(client, 1)
        host.program.install("virtlockd")
        assert "the next program can read 10485760 at most" in refused_upgrade(daemon)
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
        host.program.install("lockd")
        upgrade(daemon)
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
        for client in clients:
            client.sendall(call(2, Procedure.RESTRICT, lock.encode_flags()))
            assert [reply.serial for reply in read_replies(client, 1)] == [2]
    guest.release(disk)


def test_admin_clients_that_virtlockd_cannot_take_over_are_disconnected(host: Host) -> None:
    daemon = host.begin("lockd")
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(daemon.admin_socket))
        with StatusConnection.connect(daemon.admin_socket) as status:
            status.daemon()
        host.change_to("virtlockd")
        assert select.select([admin], [], [], 10)[0]
        assert admin.recv(1) == b""


def test_virtlockd_gets_no_descriptors_that_it_does_not_know(host: Host, make_disk: MakeDisk) -> None:
    """virtlockd would keep such descriptors open for ever."""
    daemon, disk = host.begin("virtlockd"), make_disk()
    guest = host.make_guest()
    guest.acquire(disk)

    def descriptors() -> Counter[str]:
        """Count what the daemon has open, by its name without the numbers of sockets and pipes."""
        found = subprocess.run(
            ["ls", "-l", f"/proc/{daemon.pid}/fd"], capture_output=True, text=True, check=False
        )
        return Counter(line.rpartition("-> ")[2].partition("[")[0] for line in found.stdout.splitlines()[1:])

    host.change_to("lockd")
    host.change_to("virtlockd")
    before = descriptors()
    for _ in range(2):
        host.change_to("lockd")
        host.change_to("virtlockd")
    # The daemon may not have closed the last connection yet.
    wait_until(lambda: descriptors() <= before, f"no more is open than {before}")


def test_systemd_does_not_expect_virtlockd_to_feed_its_watchdog(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """virtlockd does not feed a watchdog: systemd would kill it, and all locks would be lost."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        daemon = host.begin("lockd")
        heard: list[bytes] = []

        def hear(message: bytes) -> None:
            while not heard or message not in heard[-1].splitlines():
                heard.append(manager.recv(4096))

        hear(b"WATCHDOG=1")
        host.change_to("virtlockd")
        hear(b"WATCHDOG_USEC=0")
        hear(b"READY=1")
        host.change_to("lockd")
        hear(b"WATCHDOG_USEC=60000000")
        hear(b"WATCHDOG=1")
        assert answers(daemon)


@chooses_pids
def test_a_process_with_the_pid_of_a_guest_of_virtlockds_is_spared(host: Host, make_disk: MakeDisk) -> None:
    """virtlockd identifies guests only by pid, so the state does not show whose lock it is.

    It may be that of the second process: it is kept until that one ends too, and nobody is killed.
    """
    daemon, disk = host.begin("virtlockd"), make_disk()
    guest = host.make_guest()
    guest.acquire(disk)
    guest.kill()
    guest.reap()
    stranger = with_pid(guest.pid, lambda: Guest(daemon.socket))
    with stranger:
        assert stranger.pid == guest.pid
        host.change_to("lockd")
        guest.drop_connection()
        assert not select.select([stranger.pidfd], [], [], 2)[0]
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    wait_until(lambda: locks_on(disk) == [], "the lock is released")


@needs_root
def test_guests_in_containers_are_taken_over(host: Host, make_disk: MakeDisk) -> None:
    """virtlockd knows only their pids there. One of them is that of a stranger on the host."""
    daemon, disks = host.begin("virtlockd"), [make_disk(), make_disk(), make_disk()]
    with (
        Container() as container,
        Container() as other,
        subprocess.Popen(["sleep", "infinity"]) as stranger,
    ):
        guests = [container.start(daemon.socket, stranger.pid), other.start(daemon.socket, 777)]
        for guest, disk in zip(guests, disks, strict=False):
            assert guest.register().acquire(disk) is None
        # libvirtd's connection for a guest that has none.
        unconnected, libvirtd = other.start(daemon.socket, 888), other.start(daemon.socket)
        assert libvirtd.register(888).acquire(disks[2]) is None
        libvirtd.connection.close()
        unconnected.connection.close()
        for name in ("lockd", "lockd", "virtlockd", "lockd"):
            host.change_to(name)
            for disk in disks:
                assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
        stranger.kill()
        stranger.wait()
        assert answers(daemon)
        for disk in disks:
            assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
        guests[0].kill()
        wait_until(lambda: locks_on(disks[0]) == [], "the dead guest's lock is released")
        guests[1].connection.close()
        wait_until(lambda: locks_on(disks[1]) == [], "the lock of the guest that hung up is released")
        assert guests[1].is_dead
        assert locks_on(disks[2]) == [KernelLock("WRITE", daemon.pid)]
        with StatusConnection.connect(daemon.admin_socket) as status:
            assert status.release("", str(disks[2])) == [888]


@needs_root
def test_guests_with_one_number_release_once_however_often_the_daemon_has_changed(
    host: Host, make_disk: MakeDisk
) -> None:
    """virtlockd cannot tell guests of two containers apart, so each of them may hold both disks."""
    daemon, disks = host.begin("lockd"), [make_disk(), make_disk()]
    with Container() as container, Container() as other:
        guests = [each.start(daemon.socket, 777).register() for each in (container, other)]
        for guest, disk in zip(guests, disks, strict=True):
            assert guest.acquire(disk) is None
        for name in ("virtlockd", "lockd") * 3:
            host.change_to(name)
        for guest in guests:
            assert locks_on(disks[0]) == [KernelLock("WRITE", daemon.pid)]
            assert guest.release(disks[0]) is None
        assert locks_on(disks[0]) == []


@needs_root
def test_a_guest_in_a_container_is_itself_though_the_host_knows_it_by_another_pid(
    host: Host, make_disk: MakeDisk
) -> None:
    daemon, disk = host.begin("lockd"), make_disk()
    with Container() as container:
        guest = container.start(daemon.socket, 777)
        client = guest.register()
        assert client.acquire(disk) is None
        with RawClient(daemon, guest.pid) as libvirtd:
            assert libvirtd.create_lockspace("") is None
        for name in ("virtlockd", "lockd"):
            host.change_to(name)
            assert client.release(disk) is None
            assert client.acquire(disk) is None
        with (
            StatusConnection.connect(daemon.admin_socket) as status,
            pytest.raises(StatusRefused, match=f"pid {guest.pid}.*alive"),
        ):
            status.release("", str(disk))
        guest.kill()
        wait_until(lambda: locks_on(disk) == [], "the lock ends with the guest")


def test_two_names_of_one_file_keep_one_lock_after_a_change_to_lockd(host: Host, make_disk: MakeDisk) -> None:
    """virtlockd has granted both names. lockd keeps the lock as long as either owner needs it."""
    daemon, disk = host.begin("virtlockd"), make_disk()
    alias = disk.with_name("alias")
    os.link(disk, alias)
    guests = [host.make_guest(), host.make_guest()]
    guests[0].acquire(disk)
    guests[1].acquire(alias)
    host.change_to("lockd")
    assert "both names keep the lock until all their owners are gone" in said(daemon)
    for guest in guests:
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
        guest.kill()
        guest.reap()
        guest.drop_connection()
        assert answers(daemon)
    wait_until(lambda: locks_on(disk) == [], "both are gone")


def keys(value: object, where: str = "") -> set[str]:
    """Return the paths of all keys in a JSON document."""
    if isinstance(value, dict):
        return {f"{where}.{key}" for key in value}.union(
            *(keys(value[key], f"{where}.{key}") for key in value)
        )
    if isinstance(value, list):
        return set().union(*(keys(item, f"{where}[]") for item in value))
    return set()


def test_lockd_writes_the_keys_that_virtlockd_writes(tmp_path: Path, make_disk: MakeDisk) -> None:
    written = {}
    for name in ("virtlockd", "lockd"):
        copy = tmp_path / f"{name}.json"
        (tmp_path / name).mkdir()
        host = Host(tmp_path / name)
        disk = make_disk()
        daemon = host.begin(name)
        host.make_guest().acquire(disk)
        host.program.install_lockd_after(f"import shutil; shutil.copy(path, {str(copy)!r})")
        upgrade(daemon)
        written[name] = keys(json.loads(copy.read_text()))
        host.end()
    assert ".defaultLockspace.resources[].fd" in written["virtlockd"]
    assert written["virtlockd"] <= written["lockd"]
