"""lockd takes over from an earlier lockd, which stores holdings by the pids that clients have registered.

The earlier one takes each of them for a pid of its own pid namespace, and watches whoever has it there.
"""

import os
import select
import socket
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from lockd.client.errors import Refused as StatusRefused
from lockd.client.status import StatusConnection
from lockd.wire import lock
from lockd.wire.lock import AcquireFlags, Procedure
from tests.container import Container
from tests.handover.conftest import MakeDisk, MakeGuest
from tests.handover.program import Program, answers, upgrade
from tests.handover.test_kept import call, read_replies
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import PrivateDaemon
from tests.raw_client import RawClient
from tests.trouble.guest import Guest, Refused
from tests.waiting import wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")

EARLIER = """
# What lockd wrote before it knew of pid namespaces.
del extra["by_key"]
for resource in resources:
    resource["lockd"].pop("owners")
for client in server["clients"]:
    for name in ("owner", "owner_ended", "connected"):
        client["lockd"].pop(name)
owners = {}
for owner in extra["owners"]:
    is_here = owner["host_pid"] == owner["pid"]
    if owner["pid"] in owners and not is_here:
        continue
    if not is_here:
        try:
            owner["pidfd"] = os.pidfd_open(owner["pid"])
            os.set_inheritable(owner["pidfd"], True)
        except ProcessLookupError:
            owner["pidfd"] = None
    names = ("pid", "id", "name", "uuid", "pidfd", "fencing_since")
    owners[owner["pid"]] = {name: owner[name] for name in names}
extra["owners"] = list(owners.values())
"""
"""Code that makes the state one of the earlier lockd."""

VIRTLOCKD = """
del state["lockd"]
for entry in (*resources, *server["clients"]):
    del entry["lockd"]
"""
"""Code that makes the state one of virtlockd."""


def upgrade_with(daemon: PrivateDaemon, program: Program, code: str) -> None:
    """Have the next program take over a state that code has changed."""
    program.install_lockd_after(code)
    upgrade(daemon)


def watched_pids(daemon: PrivateDaemon) -> set[int]:
    """Return the pids of the processes that a daemon has a pidfd of."""
    found = set()
    for info in Path(f"/proc/{daemon.pid}/fdinfo").iterdir():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        if "Pid" in fields:
            found.add(int(fields["Pid"]))
    return found


def is_held(disk: Path, daemon: PrivateDaemon) -> bool:
    """Return whether the daemon has the lock when it has handled all that has happened before."""
    assert answers(daemon)
    return locks_on(disk) == [KernelLock("WRITE", daemon.pid)]


def hangs_up_unharmed(guest: Guest) -> bool:
    """Close a guest's connection; return whether it lives on. A fenced guest gets a signal after 0.1 seconds."""
    guest.drop_connection()
    return not select.select([guest.pidfd], [], [], 0.5)[0]


@pytest.fixture
def disk(make_disk: MakeDisk) -> Path:
    return make_disk()


@pytest.mark.parametrize("code", [EARLIER, VIRTLOCKD], ids=["lockd", "virtlockd"])
def test_guests_of_the_host_keep_their_locks(
    daemon: PrivateDaemon, program: Program, make_guest: MakeGuest, make_disk: MakeDisk, code: str
) -> None:
    guests = [make_guest() for _ in range(3)]
    disks = [make_disk() for _ in guests]
    for guest, disk in zip(guests, disks, strict=True):
        guest.acquire(disk)
    upgrade_with(daemon, program, code)
    guests[0].release(disks[0])
    guests[1].kill()
    wait_until(lambda: locks_on(disks[1]) == [], "the dead guest's lock ends")
    guests[2].drop_connection()
    wait_until(lambda: locks_on(disks[2]) == [], "the lock of the guest that hung up ends")
    assert guests[2].is_dead


@needs_root
def test_a_guest_in_a_container_holds_what_it_waits_for(
    daemon: PrivateDaemon, program: Program, container: Container, disk: Path
) -> None:
    """The next program serves the call anew, and by then it knows who has made it."""
    guest = container.start(daemon.socket, 777)
    client = guest.register()
    frame = call(9, Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(disk)))
    waiting = f"server['clients'][0]['lockd']['call'] = {b64encode(frame).decode()!r}"
    upgrade_with(daemon, program, EARLIER + waiting)
    assert read_replies(guest.connection, 1)[0].serial == 9
    assert client.release(disk) is None
    assert client.acquire(disk) is None
    guest.kill()
    wait_until(lambda: locks_on(disk) == [], "the lock ends with the guest")


@needs_root
def test_a_guest_in_a_container_is_watched_and_a_stranger_no_longer(
    daemon: PrivateDaemon,
    program: Program,
    container: Container,
    stranger: subprocess.Popen[bytes],
    make_disk: MakeDisk,
) -> None:
    """The earlier lockd watches the process of the host that has the guest's number."""
    guest, other = container.start(daemon.socket, stranger.pid), container.start(daemon.socket, 777)
    disks = [make_disk(), make_disk()]
    assert guest.register().acquire(disks[0]) is None
    assert other.register().acquire(disks[1]) is None
    upgrade_with(daemon, program, EARLIER)
    assert watched_pids(daemon) == {guest.pid, other.pid}
    stranger.kill()
    stranger.wait()
    assert is_held(disks[0], daemon)
    guest.kill()
    wait_until(lambda: locks_on(disks[0]) == [], "the dead guest's lock ends")
    other.connection.close()
    wait_until(lambda: locks_on(disks[1]) == [], "the lock of the guest that hung up ends")
    assert other.is_dead


@needs_root
def test_a_process_of_the_host_that_ends_meanwhile_takes_no_lock_of_its_number_with_it(
    daemon: PrivateDaemon,
    program: Program,
    container: Container,
    stranger: subprocess.Popen[bytes],
    disk: Path,
) -> None:
    """libvirtd is registered for a process of the host, and a guest in a container has the same number."""
    with RawClient(daemon, stranger.pid):
        guest = container.start(daemon.socket, stranger.pid)
        client = guest.register()
        assert client.acquire(disk) is None
        ends = (
            f"import select; pidfd = os.pidfd_open({stranger.pid}); os.kill({stranger.pid}, 9)\n"
            "select.select([pidfd], [], [])"
        )
        upgrade_with(daemon, program, EARLIER + ends)
        assert is_held(disk, daemon)
        assert client.release(disk) is None


def test_a_client_of_a_process_that_ends_meanwhile_acts_for_nobody(
    daemon: PrivateDaemon, program: Program, stranger: subprocess.Popen[bytes], disk: Path
) -> None:
    with RawClient(daemon, stranger.pid) as client:
        assert client.acquire(disk) is None
        ends = (
            f"import select; pidfd = os.pidfd_open({stranger.pid}); os.kill({stranger.pid}, 9)\n"
            "select.select([pidfd], [], [])"
        )
        upgrade_with(daemon, program, EARLIER + ends)
        assert f"owner process {stranger.pid} has ended" in (client.acquire(disk) or "")
        assert locks_on(disk) == []


NOT_SEEN = """
for owner in extra["owners"]:
    os.close(owner["pidfd"])
    owner["pidfd"] = None
"""
"""Code for an owner that the earlier lockd has not seen: it was dead, or in a container. Who has its pid is a stranger."""


def test_who_has_the_pid_of_an_owner_that_was_not_seen_does_not_inherit_its_lock(
    daemon: PrivateDaemon, program: Program, disk: Path
) -> None:
    with Guest(daemon.socket, registered=False) as successor:
        with RawClient(daemon, successor.pid) as libvirtd:
            assert libvirtd.acquire(disk) is None
        assert is_held(disk, daemon)
        upgrade_with(daemon, program, EARLIER + NOT_SEEN)
        successor.register()
        with pytest.raises(Refused, match="does not hold the resource lock"):
            successor.release(disk)
        assert hangs_up_unharmed(successor)
        assert is_held(disk, daemon)
        with StatusConnection.connect(daemon.admin_socket) as status:
            assert status.release("", str(disk)) == [successor.pid]


def test_a_guest_with_the_pid_of_an_owner_that_was_not_seen_may_hold_its_lock(
    daemon: PrivateDaemon, program: Program, disk: Path
) -> None:
    """The earlier lockd takes both for one owner. The guest is not killed, as it may hold nothing."""
    with Guest(daemon.socket) as guest:
        guest.acquire(disk)
        upgrade_with(daemon, program, EARLIER + NOT_SEEN)
        assert hangs_up_unharmed(guest)
        assert is_held(disk, daemon)
        guest.kill()
        wait_until(lambda: locks_on(disk) == [], "the lock ends with the guest")


@needs_root
@pytest.mark.parametrize("code", [EARLIER, VIRTLOCKD], ids=["lockd", "virtlockd"])
def test_an_owner_that_may_be_of_the_host_is_not_taken_for_dead(
    daemon: PrivateDaemon,
    program: Program,
    container: Container,
    stranger: subprocess.Popen[bytes],
    disk: Path,
    code: str,
) -> None:
    """No client is registered for it, and there are clients in containers: it is of the host or of a container."""
    with RawClient(daemon, stranger.pid) as libvirtd:
        assert libvirtd.acquire(disk) is None
    container.start(daemon.socket).register()
    assert is_held(disk, daemon)
    upgrade_with(daemon, program, code)
    with StatusConnection.connect(daemon.admin_socket) as status:
        words = f"pid {stranger.pid} of another pid namespace.*, which may be alive, as a process of this host has"
        with pytest.raises(StatusRefused, match=words):
            status.release("", str(disk))
        upgrade_with(daemon, program, "")
    with StatusConnection.connect(daemon.admin_socket) as status:
        with pytest.raises(StatusRefused, match=words):
            status.release("", str(disk))
        stranger.kill()
        stranger.wait()
        assert is_held(disk, daemon)
        assert status.release("", str(disk)) == [stranger.pid]


ENTERED = """
import os, signal, socket, sys
control, connection = socket.socket(fileno=int(sys.argv[1])), socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[2])
socket.send_fds(control, [str(os.getpid()).encode()], [connection.fileno()])
signal.pause()
"""


@needs_root
def test_a_process_that_has_entered_a_container_is_one_of_it(
    daemon: PrivateDaemon,
    program: Program,
    container: Container,
    stranger: subprocess.Popen[bytes],
    disk: Path,
) -> None:
    """Its parent is outside (setns(2)), so nobody can know which container it is in."""
    with RawClient(daemon, stranger.pid) as libvirtd:
        assert libvirtd.acquire(disk) is None
    member = container.start(daemon.socket)
    member.connection.close()
    control, theirs = socket.socketpair()
    with control, theirs:
        arguments = [sys.executable, "-IS", "-c", ENTERED, str(theirs.fileno()), str(daemon.socket)]
        enter = ["nsenter", "--target", str(member.pid), "--pid", "--", *arguments]
        with subprocess.Popen(enter, pass_fds=[theirs.fileno()]):
            number, (connection,), _, _ = socket.recv_fds(control, 16, 1)
            try:
                with RawClient(socket.socket(fileno=connection), int(number)):
                    upgrade_with(daemon, program, EARLIER)
                    stranger.kill()
                    stranger.wait()
                    assert is_held(disk, daemon)
            finally:
                container.end()


@needs_root
def test_an_owner_that_is_being_killed_loses_its_lock_when_it_is_dead(
    daemon: PrivateDaemon, program: Program, container: Container, disk: Path
) -> None:
    """It is of the host, though there are clients in containers."""
    with Guest(daemon.socket) as guest:
        guest.ignore_sigterm()
        guest.acquire(disk)
        container.start(daemon.socket).register()
        being_killed = (
            f"(client,) = [each for each in server['clients'] if each['privateData']['ownerPid'] == {guest.pid}]\n"
            "server['clients'].remove(client); os.close(client['sock']['fd'])\n"
            f"(owner,) = [each for each in extra['owners'] if each['pid'] == {guest.pid}]\n"
            "owner['fencing_since'] = 1.0"
        )
        upgrade_with(daemon, program, f"{EARLIER}\n{being_killed}")
        wait_until(lambda: locks_on(disk) == [], "the lock ends")
        assert guest.is_dead


@pytest.mark.parametrize("code", [EARLIER, VIRTLOCKD], ids=["lockd", "virtlockd"])
def test_an_owner_of_the_host_is_watched_though_others_are_not_seen(
    daemon: PrivateDaemon,
    program: Program,
    stranger: subprocess.Popen[bytes],
    make_disk: MakeDisk,
    code: str,
) -> None:
    shared, disk = make_disk(), make_disk()
    for dead in range(4_000_000, 4_000_032):  # no pid is as large (proc(5))
        with RawClient(daemon, dead) as libvirtd:
            assert libvirtd.acquire(shared, flags=AcquireFlags.SHARED) is None
    with RawClient(daemon, stranger.pid) as libvirtd:
        assert libvirtd.acquire(disk) is None
    upgrade_with(daemon, program, code)
    assert is_held(disk, daemon)
    stranger.kill()
    wait_until(lambda: locks_on(disk) == [], "the lock ends with its owner")
    assert locks_on(shared)
