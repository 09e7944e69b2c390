"""systemd does not read its notifications for a while: nobody waits for it, and what matters is sent later."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.handover.program import Program, refused_upgrade, upgrade
from tests.private_daemon import VIRTLOCKD, private_daemon
from tests.raw_client import RawClient
from tests.waiting import wait_until


class Manager:
    """The socket that systemd reads notifications from."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(15)
        self._socket.bind(str(path))
        self._path = path

    def close(self) -> None:
        self._socket.close()

    def fill(self) -> None:
        """Fill the queue, as other services do while systemd is busy."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            try:
                while True:
                    other.sendto(b"STATUS=of another service", str(self._path))
            except BlockingIOError:
                return

    def heard(self, line: str) -> bytes:
        """Read until a notification has this line, and return that notification."""
        while line.encode() not in (message := self._socket.recv(4096)).splitlines():
            continue
        return message


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    program = Program(tmp_path / "sbin")
    program.install("lockd")
    return program


def test_a_daemon_starts_and_is_upgraded_while_systemd_is_busy(
    tmp_path: Path, manager: Manager, program: Program
) -> None:
    manager.fill()
    with private_daemon(tmp_path / "daemon", program.path) as daemon, RawClient(daemon) as client:
        assert client.create_lockspace("") is None
        manager.heard("READY=1")
        manager.fill()
        upgrade(daemon)
        assert client.create_lockspace("") is None
        manager.heard("READY=1")
        manager.heard("STATUS=1 guest, 0 locks")


def test_the_watchdog_is_fed_as_soon_as_systemd_reads_again(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    manager.fill()
    with private_daemon(tmp_path / "daemon") as daemon, RawClient(daemon) as client:
        wait_until(
            lambda: "systemd does not read its notifications" in daemon.log.read_text(), "it is noticed"
        )
        for _ in range(100):
            assert client.create_lockspace("") is None
        began = time.monotonic()
        manager.heard("WATCHDOG=1")
        # It is not sent only when half of the interval is over once more, after ten seconds.
        assert time.monotonic() - began < 5


@pytest.mark.skipif(not VIRTLOCKD.exists(), reason="virtlockd is not installed")
def test_virtlockd_does_not_take_over_before_systemd_knows_that_it_feeds_no_watchdog(
    tmp_path: Path, manager: Manager, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd would kill it, and all locks would be lost."""
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    with private_daemon(tmp_path / "daemon", program.path) as daemon:
        manager.heard("WATCHDOG=1")
        manager.fill()
        program.install("virtlockd")
        assert "systemd cannot be told now; try again later" in refused_upgrade(daemon)
        manager.heard("READY=1")
        upgrade(daemon)
        manager.heard("WATCHDOG_USEC=0")
