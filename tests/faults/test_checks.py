"""The checks after each point find what is planted here."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import life, player, start, tracer
from tests.faults.checks import Finding, nothing_given_away, table_and_kernel_agree
from tests.faults.errnos import NOT_PLAYED, PAGES
from tests.faults.peer import Peer, PeerLost
from tests.faults.tracer import Fault
from tests.faults.world import World
from tests.trouble.hanging_filesystem import can_mount


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if not can_mount() or not tracer.can_trace():
        pytest.skip("fault injection needs root, /dev/fuse and strace")
    with player.temporary_world() as made:
        yield made


@pytest.fixture
def guest(world: World) -> Iterator[Peer]:
    peer = world.peer("a guest")
    peer.register()
    yield peer
    world.end_peers()
    world.end_daemon()


@pytest.fixture
def failed_start(world: World) -> Iterator[Path]:
    """A start has failed, in this directory. The daemon could not listen, as there is a directory in the socket's place."""
    start.prepare(world)
    directory = world.directory / "daemon" / "run"
    obstacle = directory / "libvirt" / "virtlockd-sock"
    obstacle.mkdir(parents=True, exist_ok=True)
    start.play(world)
    obstacle.rmdir()
    yield directory
    world.end_daemon()


class SilentSuccess(Fault):
    """The call is not made, and returns 0."""

    def options(self) -> list[str]:
        return ["-e", f"trace={self.name}", "-e", f"inject={self.name}:retval=0:when={self.number}"]


def test_a_life_without_faults_has_no_finding(world: World) -> None:
    points = player.record(world, life.NAME)
    assert {point.thread for point in points} == {"main thread", "worker thread"}
    assert {"openat", "fcntl", "close", "accept4", "pidfd_send_signal"} <= {
        point.fault.name for point in points
    }


def test_a_lock_that_was_released_behind_the_owners_back(world: World, guest: Peer) -> None:
    guest.acquire(world.disk)
    world.check_held()
    libvirtd = world.peer("libvirtd", owner=guest)
    libvirtd.register()
    libvirtd.release(world.disk)
    guest.relies_on.add(world.disk)
    with pytest.raises(Finding, match="disk is free for other programs"):
        world.check_held()


def test_a_lock_that_only_the_table_has(world: World, guest: Peer) -> None:
    with tracer.injected(world.daemon.pid, SilentSuccess("fcntl", 1), world.trace):
        guest.acquire(world.disk)
    with pytest.raises(Finding, match="disk is free for other programs"):
        nothing_given_away(world.daemon, [guest], world.outsider)
    with pytest.raises(Finding, match="the table has a lock that the kernel has not"):
        table_and_kernel_agree(world.daemon, world.slow.path)


def test_a_lock_that_only_the_kernel_has(world: World, guest: Peer) -> None:
    guest.acquire(world.disk)
    with tracer.injected(world.daemon.pid, Fault("close", 1, "EIO"), world.trace):
        guest.release(world.disk)
    with pytest.raises(Finding, match="the kernel has a lock that the table has not"):
        table_and_kernel_agree(world.daemon, world.slow.path)
    world.end_peers()
    with pytest.raises(Finding, match="a lock stays in the kernel"):
        world.check_clean(seconds=0.2)


def test_a_guest_that_was_killed(world: World, guest: Peer) -> None:
    guest.acquire(world.disk)
    guest.guest.kill()
    guest.guest.wait_for_death()
    with pytest.raises(Finding, match="who relies on \\['disk'\\], was killed"):
        world.check_held()


def test_a_descriptor_that_stays_open(world: World, guest: Peer) -> None:
    world.end_peers()
    world.check_clean()
    with world.daemon.connect(), pytest.raises(Finding, match="descriptors stay open"):
        world.check_clean(seconds=0.2)


def test_a_start_that_fails_as_it_should(world: World, failed_start: Path) -> None:
    start.check_failed_start(world)


def test_a_failed_start_that_leaves_its_pid_file(world: World, failed_start: Path) -> None:
    (failed_start / "virtlockd.pid").write_text(f"{world.daemon.pid}\n")
    with pytest.raises(Finding, match=r"a failed start leaves .*virtlockd\.pid"):
        start.check_failed_start(world)


def test_a_failed_start_that_says_too_much(world: World, failed_start: Path) -> None:
    with world.daemon.log.open("a") as log:
        log.write("another line\n")
    with pytest.raises(Finding, match="a failed start says 2 lines"):
        start.check_failed_start(world)


def test_a_daemon_that_does_not_answer(world: World, guest: Peer) -> None:
    guest.guest.connection.settimeout(0.1)
    world.daemon.stop()
    with pytest.raises(PeerLost, match="gets no answer to ACQUIRE disk"):
        guest.acquire(world.disk)


def test_a_daemon_that_has_ended(world: World, guest: Peer) -> None:
    world.daemon.process.kill()
    world.daemon.process.wait()
    with pytest.raises(Finding, match="the daemon has ended"):
        world.check_clean()


def test_a_traceback(world: World, guest: Peer) -> None:
    world.said()
    with world.daemon.log.open("a") as log:
        log.write("Traceback (most recent call last):\n")
    with pytest.raises(Finding, match="a traceback in the log"):
        world.check_log()


def test_the_main_thread_calls_nothing_on_a_slow_file_system(world: World, guest: Peer) -> None:
    """Only worker threads call what may hang, so only there does a call hang in the points (Invariant 3)."""
    world.warm_up()
    with tracer.recorded(world.daemon.pid, world.trace):
        life.play(world)
    slow = re.compile(re.escape(f"{world.directory}/") + "(slow|other)-server")
    calls = tracer.calls(world.trace)
    assert [call for call in calls if slow.search(call.text) and call.thread != world.daemon.pid]
    assert not [call for call in calls if slow.search(call.text) and call.thread == world.daemon.pid]


def test_each_call_is_played_or_left_out_for_a_reason(world: World, guest: Peer) -> None:
    world.warm_up()
    with tracer.recorded(world.daemon.pid, world.trace):
        life.play(world)
    assert {call.name for call in tracer.calls(world.trace)} <= PAGES.keys() | NOT_PLAYED
