"""What a daemon allows its clients: who, how many, how much; and no trouble for the others (Invariants 3 and 5)."""

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
    """Bytes of memory that a process has had at its largest."""
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
        # Those that were accepted are answered; had the others been, they would be answered by then.
        for client in clients:
            assert client.create_lockspace("") is None
        assert not has_answer(waiting[0], 0.3)
        clients[0].close()
        assert waiting[0].socket.recv(100) == keepalive.PONG
        assert not has_answer(waiting[1])
        waiting[0].close()
        assert waiting[1].socket.recv(100) == keepalive.PONG


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user needs root")
@pytest.mark.parametrize("name", ["socket", "admin_socket"])
def test_another_user_is_refused_whatever_the_sockets_mode(daemon: PrivateDaemon, name: str) -> None:
    path: Path = getattr(daemon, name)
    path.chmod(0o666)
    # pytest's own directories are closed to others: only the last one is looked at, from inside.
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


def test_a_client_that_reads_no_replies_is_not_read_either(daemon: PrivateDaemon) -> None:
    """All of its calls are answered once it reads; meanwhile the others' are, and memory is bounded."""
    with RawClient(daemon, owner=None) as deaf, RawClient(daemon) as other:
        before = memory_peak(daemon.pid)
        deaf.socket.setblocking(False)
        sent = 0
        pings = memoryview(PING * 10_000)
        while select.select([], [deaf.socket], [], 1)[1]:
            sent += deaf.socket.send(pings[sent % len(PING) :])
            assert sent < 8 * MEGABYTE, "it is read without end"
        assert other.create_lockspace("") is None
        assert memory_peak(daemon.pid) - before < MEGABYTE
        deaf.socket.settimeout(15)
        answers = 0
        while answers < sent // len(PING) * len(PING):
            answers += len(deaf.socket.recv(MEGABYTE))


def test_a_client_that_sends_faster_than_it_is_served_is_read_no_faster(daemon: PrivateDaemon) -> None:
    """It reads its replies, so nothing else slows it down: what it sends must not pile up in the daemon."""
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


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.touch()
    return path


def test_many_calls_of_one_client_do_not_keep_the_others_waiting(daemon: PrivateDaemon, disk: Path) -> None:
    """Both send while the daemon stands still: the other's one call is answered long before the first's last."""
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
    """And what it was answered before is said."""
    with RawClient(daemon) as bad, RawClient(daemon) as other:
        call = bad.frame(Procedure.ACQUIRE_RESOURCE, encode_resource("", str(disk)))
        bad.socket.sendall(call + length.to_bytes(4, "big") + bytes(24))
        assert bad.reply() is None
        with pytest.raises(ConnectionResetError):
            bad.reply()
        assert other.release(disk) is None


def test_calls_sent_before_a_client_left_are_served(daemon: PrivateDaemon, tmp_path: Path) -> None:
    """As many as there are: libvirt's release is the last that its short connection asks for."""
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
        ],  # Python then takes no name for more than ASCII
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
