"""The keepalive program: a peer's PING is answered with a PONG."""

from enum import IntEnum

from lockd.wire.frames import FrameType, encode

PROGRAM = 0x6B656570
VERSION = 1


class Procedure(IntEnum):
    """What the program sends, always as a MESSAGE without payload and with serial 0."""

    PING = 1
    PONG = 2


PONG = encode(PROGRAM, VERSION, Procedure.PONG, FrameType.MESSAGE, serial=0)
