"""Lists of locks, owners and lockspaces with very long names: no reply is too long, and nobody waits for one."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lockd.client.status import StatusConnection
from lockd.wire import lock, status
from lockd.wire.frames import HEADER, FrameType, encode
from lockd.wire.status import Procedure, decode_document, encode_document
from tests.ctl.conftest import Host, host_with
from tests.private_daemon import LOCKD, PrivateDaemon
from tests.raw_client import AUTOCREATE, NOBODY, SHARED, RawClient
from tests.robustness.observed import resident_bytes

LONG_NAME = "\x1b" * lock.STRING_MAX
"""JSON takes six bytes for each of these characters."""

LONGEST_REPLY = 2 << 20
"""The longest reply has an entry with the longest name behind a page that was nearly full."""

QUESTIONS = 32


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with host_with(tmp_path, LOCKD) as host:
        yield host


def frame(procedure: int, question: dict[str, object], serial: int = 1) -> bytes:
    payload = encode_document(question)
    return encode(status.PROGRAM, status.VERSION, procedure, FrameType.CALL, serial, payload=payload)


class Asker:
    """An admin client that knows how long the replies are."""

    def __init__(self, daemon: PrivateDaemon) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(15)
        self.socket.connect(str(daemon.admin_socket))

    def reply(self, *, may_fail: bool = False) -> bytes:
        size, *_, failed = HEADER.unpack(self._exactly(HEADER.size))
        assert may_fail or not failed
        return self._exactly(size - HEADER.size)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self.socket.recv(min(size - len(data), 1 << 20))
            assert more
            data += more
        return bytes(data)


def test_one_owner_with_a_long_name_and_many_locks(host: Host) -> None:
    daemon = host.daemon
    leases = host.directory / "leases"
    with RawClient(daemon, name=LONG_NAME) as client, RawClient(daemon, NOBODY + 1) as other:
        assert client.create_lockspace(leases) is None
        for number in range(250):
            assert client.acquire(f"lease-{number}", leases, AUTOCREATE) is None
        before = resident_bytes(daemon)

        # As an older lockctl asks: each lock brings its owner's name.
        asker = Asker(daemon)
        listed: list[str] = []
        after: object = 0
        while after is not None:
            asker.socket.sendall(frame(Procedure.LOCKS, {"after": after}))
            payload = asker.reply()
            assert len(payload) < LONGEST_REPLY
            page = decode_document(payload)
            assert all(lock["owners"][0]["name"] == LONG_NAME for lock in page["locks"])
            listed += [lock["resource"] for lock in page["locks"]]
            after = page["next"]
        assert listed == [f"lease-{number}" for number in range(250)]

        # As many questions at once as one turn answers, of a client that does not read.
        asker.socket.sendall(b"".join(frame(Procedure.LOCKS, {"after": 0}, n) for n in range(QUESTIONS)))
        for _ in range(QUESTIONS):
            began = time.monotonic()
            assert other.release("lease-0", leases) is not None
            assert time.monotonic() - began < 1
        assert resident_bytes(daemon) < before + (32 << 20)
        for _ in range(QUESTIONS):
            assert len(asker.reply()) < LONGEST_REPLY
        asker.socket.close()

        with StatusConnection.connect(daemon.admin_socket) as connection:
            locks = list(connection.locks())
        assert [found["resource"] for found in locks] == listed
        assert {owner["name"] for found in locks for owner in found["owners"]} == {LONG_NAME}
        for command in ("status", "check", "metrics"):
            assert "lease-0" in host.lockctl(command) or command != "status"


def test_a_lock_with_many_owners_of_long_names(host: Host) -> None:
    daemon = host.daemon
    disk = host.disk("disk")
    names = [f"{number}-{LONG_NAME}"[: lock.STRING_MAX] for number in range(40)]
    with ExitStack() as stack:
        for number, name in enumerate(names):
            client = stack.enter_context(RawClient(daemon, NOBODY + number, name=name))
            assert client.acquire(disk, flags=SHARED) is None
        asker = Asker(daemon)
        questions: dict[Procedure, dict[str, object]] = {
            Procedure.LOCKS: {"after": 0},
            Procedure.FIND: {"lockspace": "", "resource": str(disk)},
        }
        for procedure, question in questions.items():
            asker.socket.sendall(frame(procedure, question))
            assert len(asker.reply()) < LONGEST_REPLY
        asker.socket.close()
        with StatusConnection.connect(daemon.admin_socket) as connection:
            (listed,) = connection.locks()
            found = connection.find("", str(disk))
            file = os.stat(disk)
            found_by_file = connection.find_file(file.st_dev, file.st_ino)
        assert found is not None
        assert found_by_file is not None
        for told in (listed, found, found_by_file):
            assert [owner["name"] for owner in told["owners"]] == names
            assert [owner["pid"] for owner in told["owners"]] == [NOBODY + n for n in range(40)]
        assert len(host.lockctl("status").splitlines()) == 41
        assert host.lockctl("who", disk).count("is held by") == 40


def test_many_spellings_of_one_lockspace(host: Host) -> None:
    leases = host.directory / "leases"
    leases.mkdir()
    spellings = [f"{leases}{'/.' * (1900 - number % 100)}{'/' * (number // 100)}" for number in range(5000)]
    with RawClient(host.daemon) as client:
        for spelling in spellings:
            assert client.create_lockspace(spelling) is None
    asker = Asker(host.daemon)
    for procedure in (Procedure.DAEMON, Procedure.LOCKSPACES):
        asker.socket.sendall(frame(procedure, {}))
        assert len(asker.reply()) < LONGEST_REPLY
    asker.socket.close()
    with StatusConnection.connect(host.daemon.admin_socket) as connection:
        assert list(connection.lockspaces()) == spellings
    assert host.lockctl("metrics").count("lockd_locks{") == 2 * (len(spellings) + 1)
    host.lockctl("check")


def test_any_place_in_a_list_is_answered(host: Host) -> None:
    disk = host.disk("disk")
    places: list[object] = [-1, 0, 10**30, None, "x", [], [0], [0, -1], [0, 1], [10**30, 10**30], {}]
    with RawClient(host.daemon) as client:
        assert client.acquire(disk) is None
        asker = Asker(host.daemon)
        for place in places:
            asker.socket.sendall(
                frame(Procedure.LOCKS, {"after": place})
                + frame(Procedure.LOCKSPACES, {"after": place})
                + frame(Procedure.FIND, {"lockspace": "", "resource": str(disk), "after": place})
            )
            for _ in range(3):
                asker.reply(may_fail=True)
        asker.socket.close()
    assert host.daemon.log.read_text() == ""
