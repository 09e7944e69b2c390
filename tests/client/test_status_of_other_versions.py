"""The status connection to daemons of other versions: older ones, and ones that lack something."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lockd.client.errors import IncompatibleDaemon
from lockd.client.status import StatusConnection
from lockd.wire.errors import rpc_error
from lockd.wire.frames import FrameReader, Status, encode_reply
from lockd.wire.status import Procedure, decode_document
from tests.wire.strategies import packed


@contextmanager
def older_daemon(path: Path, answers: dict[int, Any]) -> Iterator[StatusConnection]:
    """Give a connection to a server that answers one client with the given JSON, and knows no other procedures."""

    def serve() -> None:
        connection, _ = listener.accept()
        reader = FrameReader(1 << 20)
        with connection:
            while data := connection.recv(65536):
                reader.feed(data)
                while (call := reader.next_frame()) is not None:
                    if call.procedure not in answers:
                        error = rpc_error(f"unknown procedure: {call.procedure}")
                        connection.sendall(encode_reply(call, error.encode(), Status.ERROR))
                        continue
                    answer = answers[call.procedure]
                    if isinstance(answer, dict) and "after" in (question := decode_document(call.payload)):
                        answer = answer.get(question["after"], answer)
                    connection.sendall(encode_reply(call, packed("s", json.dumps(answer).encode())))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        with StatusConnection.connect(path) as connection:
            yield connection
        thread.join(15)
        assert not thread.is_alive()


def test_the_pages_of_an_older_daemon_have_the_owners_in_the_locks(tmp_path: Path) -> None:
    locks = [{"number": number, "owners": [{"pid": 7, "name": "vm"}]} for number in (1, 2, 3)]
    pages = {0: {"locks": locks[:2], "next": 2}, 2: {"locks": locks[2:], "next": None}}
    with older_daemon(tmp_path / "socket", {Procedure.LOCKS: pages}) as connection:
        assert list(connection.locks()) == locks


def test_an_older_daemon_tells_its_lockspaces_with_the_rest(tmp_path: Path) -> None:
    with older_daemon(tmp_path / "socket", {Procedure.DAEMON: {"lockspaces": ["/a", "/b"]}}) as connection:
        assert list(connection.lockspaces()) == ["/a", "/b"]


def test_an_older_daemon_tells_all_owners_of_a_lock_at_once(tmp_path: Path) -> None:
    lock = {"number": 1, "owners": [{"pid": 7}]}
    with older_daemon(tmp_path / "socket", {Procedure.FIND: {"lock": lock}}) as connection:
        assert connection.find("", "/disk") == lock


@pytest.mark.parametrize("answer", [{}, {"lock": {}}, {"lock": {"owners": [{}]}}])
def test_what_a_daemon_does_not_tell_is_an_error_in_one_line(tmp_path: Path, answer: dict[str, Any]) -> None:
    with older_daemon(tmp_path / "socket", {Procedure.FIND: answer}) as connection:

        def pid_of_owner() -> Any:
            lock = connection.find("", "/disk")
            return None if lock is None else lock["owners"][0]["pid"]

        with pytest.raises(
            IncompatibleDaemon, match=r"^the daemon does not tell '\w+': it is of another version"
        ):
            pid_of_owner()
