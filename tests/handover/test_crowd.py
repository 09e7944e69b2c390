"""Live upgrades on a large host: 900 guests with ten disks each."""

import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

import pytest

from lockd.wire import lock
from lockd.wire.lock import Procedure
from tests.handover.program import Program, replace_program
from tests.handover.test_kept import call, read_replies
from tests.private_daemon import VIRTLOCKD, PrivateDaemon, private_daemon
from tests.trouble.guest import Guest
from tests.waiting import wait_until

GUESTS = 900
DISKS = 10
UPGRADES = 5
PATIENCE = 5  # seconds
LOST = float("inf")  # the wait for an answer that never comes


@contextmanager
def crowd(count: int) -> Iterator[list[int]]:
    """Start the given number of processes and yield their pids."""
    program = [sys.executable, "-IS", str(Path(__file__).with_name("crowd_process.py")), str(count)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield [int(pid) for pid in process.stdout.readline().split()]


def connect_all(daemon: PrivateDaemon, pids: list[int], disks: Path) -> list[socket.socket]:
    """Register each pid on a connection of its own, and acquire its disks."""
    disks.mkdir()
    connections = []
    for number, pid in enumerate(pids):
        connection = daemon.connect()
        owner = lock.Owner(uuid4(), f"guest-{number}", number + 1, pid)
        calls = [call(0, Procedure.REGISTER, lock.encode_register(owner))]
        for disk in range(DISKS):
            path = disks / f"{number}-{disk}"
            path.touch()
            calls.append(call(disk, Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(path))))
        calls.append(call(0, Procedure.RESTRICT, lock.encode_flags()))
        for one in calls:
            # virtlockd reads no further call before it has answered the last one.
            connection.sendall(one)
            assert read_replies(connection, 1)[0].status == 0
        connections.append(connection)
    return connections


def held_locks(daemon: PrivateDaemon) -> int:
    """Return how many locks the daemon has in the kernel, except the lock on its pid file."""
    lines = Path("/proc/locks").read_text().splitlines()
    return sum(f" {daemon.pid} " in line for line in lines) - 1


def readable(connections: list[socket.socket], seconds: float = 0) -> bool:
    """Return whether any of the connections can be read from. select(2) cannot take so many."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class Bystander:
    """A client that makes calls without pause, and measures the longest wait for an answer, in seconds."""

    def __init__(self, guest: Guest, disk: Path) -> None:
        self._guest = guest
        self._disk = disk
        self._done = Event()
        self._thread = Thread(target=self._call)
        self.longest = 0.0
        self._calls = 0

    def __enter__(self) -> "Bystander":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def is_served(self) -> None:
        """Wait until the daemon has answered a call that was sent after this method was called."""
        served = self._calls
        wait_until(lambda: self._calls > served + 1 or self.longest == LOST, "the next program serves")

    def _call(self) -> None:
        while not self._done.is_set():
            begun = time.monotonic()
            for send in (self._guest.send_acquire, self._guest.send_release):
                send(self._disk)
                if not readable([self._guest.connection], PATIENCE):
                    # virtlockd never answers a call that came just before it replaced itself.
                    self.longest = LOST
                    return
                self._guest.reply()
            self.longest = max(self.longest, time.monotonic() - begun)
            self._calls += 1
            time.sleep(0.002)


@pytest.mark.parametrize("name", ["virtlockd", "lockd"])
def test_upgrades_keep_the_locks_of_900_guests_with_ten_disks_each(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "virtlockd" and not VIRTLOCKD.exists():
        pytest.skip(f"{VIRTLOCKD} is not there")
    program = Program(tmp_path / "sbin")
    program.install(name)
    pauses = []
    with (
        crowd(GUESTS) as pids,
        private_daemon(tmp_path / "daemon", program.path) as daemon,
    ):
        connections = connect_all(daemon, pids, tmp_path / "disks")
        (tmp_path / "disk").touch()
        for _ in range(UPGRADES):
            with Guest(daemon.socket) as guest, Bystander(guest, tmp_path / "disk") as bystander:
                replace_program(daemon)
                bystander.is_served()
            pauses.append(bystander.longest)
            # /proc/locks may lack a line while other processes lock and unlock.
            wait_until(lambda: held_locks(daemon) == GUESTS * DISKS, "all locks are listed")
        assert not readable(connections)
        for connection in connections:
            connection.sendall(call(9, Procedure.RESTRICT, lock.encode_flags()))
            assert read_replies(connection, 1)[0].serial == 9
        daemon.process.kill()
        daemon.process.wait()
        for connection in connections:
            connection.close()
    waits = [pause for pause in pauses if pause != LOST]
    assert name == "virtlockd" or LOST not in pauses
    with capsys.disabled():
        print(
            f"\n{name}, {GUESTS} guests with {DISKS} disks each: {UPGRADES} upgrades made a client wait for"
            f" {statistics.median(waits) * 1000:.0f} ms (median), {max(waits) * 1000:.0f} ms (worst);"
            f" {pauses.count(LOST)} calls lost"
        )
