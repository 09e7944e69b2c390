"""The keepalive program."""

from lockd.wire import keepalive
from tests.wire.strategies import packed


def test_a_pong_is_a_message_without_payload() -> None:
    """Length 28, program, version 1, procedure 2, type 2 (a message), serial 0, status 0."""
    assert packed("uuuuuuu", 28, 0x6B656570, 1, 2, 2, 0, 0) == keepalive.PONG
    assert keepalive.PROGRAM.to_bytes(4, "big") == b"keep"
