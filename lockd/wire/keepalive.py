"""The keepalive program: the answer to a PING of the peer is a PONG."""

from enum import IntEnum

from lockd.wire.frames import FrameType, encode

PROGRAM = 0x6B656570
VERSION = 1


class Procedure(IntEnum):
    """The messages of the program. Each has the type MESSAGE, no payload, and the serial 0."""

    PING = 1
    PONG = 2


PONG = encode(PROGRAM, VERSION, Procedure.PONG, FrameType.MESSAGE, serial=0)
"""The bytes of a PONG frame."""
