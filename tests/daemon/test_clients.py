"""Limits for clients: which user, how many, how much memory. No client delays others (Invariants 3 and 5)."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from lockd.wire import keepalive
from lockd.wire.frames import FrameType, encode
from lockd.wire.lock import Procedure, encode_resource
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.raw_client import AUTOCREATE, RawClient

PING = encode(keepalive.PROGRAM, keepalive.VERSION, keepalive.Procedure.PING, FrameType.MESSAGE, 0)
MEGABYTE = 1024 * 1024
NOBODY = 65534


def memory_peak(pid: int) -> int:
    """Return the largest resident memory that a process has had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def has_answer(client: RawClient, seconds: float = 0) -> bool:
    return bool(select.select([client.socket], [], [], seconds)[0])


@pytest.mark.parametrize("number", [1, 3])
def test_at_max_clients_the_next_one_waits_until_one_leaves(tmp_path: Path, number: int) -> None:
    with ExitStack() as stack:
        daemon = stack.enter_context(
            private_daemon(tmp_path / "daemon", settings=f"max_clients = {number}\n")
        )
        clients = [stack.enter_context(RawClient(daemon)) for _ in range(number)]
        waiting = [stack.enter_context(RawClient(daemon, owner=None)) for _ in range(2)]
        for client in waiting:
            client.socket.sendall(PING)
        # If the waiting clients had been accepted, they would have their answers after these calls.
        for client in clients:
            assert client.create_lockspace("") is None
        assert not has_answer(waiting[0], 0.3)
        clients[0].close()
        assert waiting[0].socket.recv(100) == keepalive.PONG
        assert not has_answer(waiting[1])
        waiting[0].close()
        assert waiting[1].socket.recv(100) == keepalive.PONG


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
@pytest.mark.parametrize("name", ["socket", "admin_socket"])
def test_another_user_is_refused_whatever_the_sockets_mode(daemon: PrivateDaemon, name: str) -> None:
    path: Path = getattr(daemon, name)
    path.chmod(0o666)
    # Other users cannot pass through pytest's directories: the program starts in the socket's directory.
    program = (
        "import socket, sys; connection = socket.socket(socket.AF_UNIX); connection.settimeout(10); "
        "connection.connect(sys.argv[1]); print(connection.recv(100))"
    )
    refused = subprocess.run(
        [os.path.realpath(sys.executable), "-IS", "-c", program, path.name],
        cwd=path.parent,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
    )
    assert refused.stdout == "b''\n"
    assert f"user {NOBODY} (pid " in daemon.log.read_text()
    with RawClient(daemon) as client:
        assert client.create_lockspace("") is None


def test_the_daemon_does_not_read_calls_of_a_client_that_reads_no_replies(daemon: PrivateDaemon) -> None:
    """Memory stays bounded, and other clients are served.

    Once the client reads, all its calls are answered.
    """
    with RawClient(daemon, owner=None) as deaf, RawClient(daemon) as other:
        before = memory_peak(daemon.pid)
        deaf.socket.setblocking(False)
        sent = 0
        pings = memoryview(PING * 10_000)
        while select.select([], [deaf.socket], [], 1)[1]:
            sent += deaf.socket.send(pings[sent % len(PING) :])
            assert sent < 8 * MEGABYTE, "the daemon reads without limit"
        assert other.create_lockspace("") is None
        assert memory_peak(daemon.pid) - before < MEGABYTE
        deaf.socket.settimeout(15)
        answers = 0
        while answers < sent // len(PING) * len(PING):
            answers += len(deaf.socket.recv(MEGABYTE))


def test_calls_that_come_faster_than_they_are_served_do_not_pile_up(daemon: PrivateDaemon) -> None:
    """The client reads its replies, so they do not slow it down: the daemon has to limit what it reads."""
    count = 200_000
    with RawClient(daemon, owner=None) as client:
        before = memory_peak(daemon.pid)
        sender = threading.Thread(target=client.socket.sendall, args=[PING * count])
        sender.start()
        received = 0
        while received < count * len(keepalive.PONG):
            received += len(client.socket.recv(MEGABYTE))
        sender.join()
        assert memory_peak(daemon.pid) - before < MEGABYTE


def test_many_calls_of_one_client_do_not_keep_the_others_waiting(daemon: PrivateDaemon, disk: Path) -> None:
    """Both send while the daemon is stopped.

    The one call of `other` is served before the last one of `busy`.
    """
    with RawClient(daemon) as busy, RawClient(daemon) as other:
        daemon.stop()
        acquire = busy.frame(Procedure.ACQUIRE_RESOURCE, encode_resource("", str(disk)))
        calls = 1000
        busy.socket.sendall(busy.frame(Procedure.CREATE_LOCKSPACE, bytes(4)) * calls + acquire)
        other.socket.sendall(other.frame(Procedure.ACQUIRE_RESOURCE, encode_resource("", str(disk))))
        daemon.signal(signal.SIGCONT)
        assert other.reply() is None
        for _ in range(calls):
            assert busy.reply() is None
        refusal = busy.reply()
        assert refusal is not None
        assert "is locked" in refusal


def test_half_a_frame_keeps_nobody_waiting(daemon: PrivateDaemon, disk: Path) -> None:
    with RawClient(daemon) as slow, RawClient(daemon) as other:
        call = slow.frame(Procedure.ACQUIRE_RESOURCE, encode_resource("", str(disk)))
        for part in (call[:3], call[3:40]):
            slow.socket.sendall(part)
            assert other.create_lockspace("") is None
        slow.socket.sendall(call[40:])
        assert slow.reply() is None


@pytest.mark.parametrize("length", [0, 27, 33554437, 2**32 - 1])
def test_an_impossible_frame_costs_its_sender_alone_the_connection(
    daemon: PrivateDaemon, disk: Path, length: int
) -> None:
    """Replies to earlier calls of that client are still sent."""
    with RawClient(daemon) as bad, RawClient(daemon) as other:
        call = bad.frame(Procedure.ACQUIRE_RESOURCE, encode_resource("", str(disk)))
        bad.socket.sendall(call + length.to_bytes(4, "big") + bytes(24))
        assert bad.reply() is None
        with pytest.raises(ConnectionResetError):
            bad.reply()
        assert other.release(disk) is None


def test_calls_sent_before_a_client_left_are_served(daemon: PrivateDaemon, tmp_path: Path) -> None:
    """All calls are served, however many: libvirt sends a release as the last call of a short connection."""
    lease = tmp_path / "lease"
    with RawClient(daemon) as leaving:
        acquire = leaving.frame(Procedure.ACQUIRE_RESOURCE, encode_resource("", str(lease), AUTOCREATE))
        leaving.socket.sendall(leaving.frame(Procedure.CREATE_LOCKSPACE, bytes(4)) * 200 + acquire)
        leaving.socket.shutdown(socket.SHUT_WR)
        for _ in range(200):
            assert leaving.reply() is None
        assert leaving.reply() is None
    assert lease.exists()


@pytest.mark.parametrize(
    "locale",
    [
        [
            "LC_ALL=C",
            "PYTHONCOERCECLOCALE=0",
            "PYTHONUTF8=0",
        ],  # Python's file system encoding is then ASCII
        ["LC_ALL=C.UTF-8"],
    ],
)
def test_a_path_is_the_same_bytes_in_every_locale(tmp_path: Path, locale: list[str]) -> None:
    disk = os.fsencode(tmp_path) + "/düsk".encode()
    os.close(os.open(disk, os.O_CREAT, 0o600))
    with (
        private_daemon(tmp_path / "daemon", wrapper=("env", *locale)) as daemon,
        RawClient(daemon) as client,
    ):
        assert client.call(Procedure.ACQUIRE_RESOURCE, encode_resource("", os.fsdecode(disk))) is None
        assert locks_on(Path(os.fsdecode(disk))) == [KernelLock("WRITE", daemon.pid)]
