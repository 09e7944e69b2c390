"""A fault of the daemon costs a call an error reply, and no guest its life or its locks (Invariant 5)."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

from lockd.wire.frames import FrameType, encode
from tests.daemon import faulty_daemon
from tests.daemon.faulty_daemon import FAIL, LOSE_DESCRIPTOR, SPOIL_PATH
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.raw_client import AUTOCREATE
from tests.trouble.guest import Guest, Refused
from tests.waiting import wait_until

FAULT = "internal error: the daemon could not carry out the call; its log says why"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[PrivateDaemon]:
    program = Path(faulty_daemon.__file__)
    with private_daemon(tmp_path / "daemon", program, wrapper=[sys.executable]) as running:
        yield running


@pytest.fixture
def guest(daemon: PrivateDaemon) -> Iterator[Guest]:
    with Guest(daemon.socket) as running:
        yield running


def call(procedure: int, payload: bytes = b"") -> bytes:
    return encode(faulty_daemon.PROGRAM, faulty_daemon.VERSION, procedure, FrameType.CALL, 0, payload=payload)


def test_a_call_that_meets_a_fault_gets_an_error_and_the_next_one_its_reply(
    daemon: PrivateDaemon, guest: Guest, disk: Path
) -> None:
    guest.acquire(disk)
    guest.connection.sendall(call(FAIL))
    guest.send_release(disk)
    guest.connection.sendall(call(FAIL))
    guest.send_acquire(disk)
    for _ in range(2):
        with pytest.raises(Refused, match=f"^{FAULT}$"):
            guest.reply()
        guest.reply()
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    assert guest.process.poll() is None
    assert f'domain "{guest.name}" (pid {guest.pid}), met a fault of the daemon' in daemon.log.read_text()


def test_all_faults_together_have_a_few_messages_per_second(daemon: PrivateDaemon, tmp_path: Path) -> None:
    """A client that repeats a call that meets a fault must not fill the log, and neither must several in several ways."""
    began = int(monotonic())
    with Guest(daemon.socket) as caller, ExitStack() as stack:
        for number in range(20):
            caller.connection.sendall(call(FAIL))
            with pytest.raises(Refused, match=f"^{FAULT}$"):
                caller.reply()
            lease = tmp_path / f"lease{number}"
            caller.acquire(lease, flags=AUTOCREATE)
            caller.connection.sendall(call(SPOIL_PATH, bytes(lease)))
            caller.reply()
            caller.release(lease)
            loser = stack.enter_context(daemon.connect())
            loser.sendall(call(LOSE_DESCRIPTOR))
            assert loser.recv(1) == b""
        seconds = int(monotonic()) - began + 1
    log = daemon.log.read_text()
    logged = sum(
        log.count(words) for words in ("met a fault", "could not be released", "could not be served")
    )
    assert 1 < logged <= 5 * seconds


def test_a_guest_whose_connection_is_closed_for_a_fault_keeps_its_lock_until_it_ends(
    daemon: PrivateDaemon, guest: Guest, disk: Path
) -> None:
    guest.acquire(disk)
    guest.connection.sendall(call(LOSE_DESCRIPTOR))
    with pytest.raises(ConnectionResetError):
        guest.reply()
    # An owner that is fenced gets its first signal after 0.1 seconds.
    with pytest.raises(AssertionError, match="timed out"):
        wait_until(lambda: guest.is_dead, "the guest is dead", seconds=0.5)
    assert "its connection is closed, and its owner keeps its locks" in daemon.log.read_text()
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    with Guest(daemon.socket) as other:
        with pytest.raises(Refused, match=f'is locked by domain "{guest.name}"'):
            other.acquire(disk)
        guest.kill()
        wait_until(lambda: locks_on(disk) == [], "the lock has ended")
        other.acquire(disk)


def test_a_release_that_fails_for_no_known_reason_leaves_nothing_stuck(
    daemon: PrivateDaemon, guest: Guest, tmp_path: Path
) -> None:
    """The file cannot be removed, as its path has become one that no system call takes. It is closed all the same."""
    lease = tmp_path / "lease"
    guest.acquire(lease, flags=AUTOCREATE)
    guest.connection.sendall(call(SPOIL_PATH, bytes(lease)))
    guest.reply()
    guest.release(lease)
    assert locks_on(lease) == []
    guest.acquire(lease, flags=AUTOCREATE)
    assert locks_on(lease) == [KernelLock("WRITE", daemon.pid)]
    assert "could not be released" in daemon.log.read_text()
