"""Text that cannot be encoded, or that a terminal obeys, harms nobody on its way through the daemon."""

import socket

import pytest

from lockd.wire import status
from lockd.wire.errors import ErrorReply
from lockd.wire.frames import Frame, FrameReader, FrameType, Status, encode
from tests.robustness.conftest import Guard
from tests.wire.strategies import packed

HALF_A_PAIR = r'{"lockspace":"","resource":"\ud800"}'


def ask(guard: Guard, procedure: int, source: str) -> Frame:
    """Send JSON to the status program, as it is, and return the reply."""
    call = encode(
        status.PROGRAM, status.VERSION, procedure, FrameType.CALL, 1, payload=packed("s", source.encode())
    )
    reader = FrameReader(1 << 20)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(15)
        connection.connect(str(guard.daemon.admin_socket))
        connection.sendall(call)
        while (reply := reader.next_frame()) is None:
            data = connection.recv(1 << 16)
            assert data, "the daemon has closed the connection"
            reader.feed(data)
    return reply


@pytest.mark.parametrize("procedure", list(status.Procedure))
@pytest.mark.parametrize(
    "source",
    [
        HALF_A_PAIR,
        r'{"lockspace":"\udfff","resource":"x"}',
        r'{"after":"\ud800"}',
        r'{"\ud800":1,"lockspace":"","resource":"x"}',
        r'{"lockspace":"","resource":"x","more":[{"deep":"\ud800\ud800"}]}',
    ],
)
def test_half_of_a_surrogate_pair_in_json_is_refused(
    guard: Guard, procedure: status.Procedure, source: str
) -> None:
    """Encoding the error reply raised an exception, and so did logging that: the daemon ended, with all locks."""
    reply = ask(guard, procedure, source)
    assert reply.status == Status.ERROR
    assert ErrorReply.decode(reply.payload).message == "Unable to decode message payload"
    guard.check()


def test_bytes_that_are_not_utf_8_are_a_name_in_json_too(guard: Guard) -> None:
    reply = ask(guard, status.Procedure.RELEASE, r'{"lockspace":"","resource":"\udcff"}')
    message = ErrorReply.decode(reply.payload).message
    assert message == "resource busy: Lockspace resource '\udcff' is not locked"
