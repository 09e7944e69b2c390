"""Frames: how calls and replies follow each other on a stream socket.

A frame is its own length (u32, itself included) and a header of six u32, then the payload.
"""

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

HEADER = Struct(">7I")
"""Length, program, version, procedure, type, serial, status."""

LENGTH_MIN = HEADER.size
LENGTH_MAX = 33554436
"""The largest length that virtlockd believes: 32 MiB of frame after the length itself."""

_LENGTH = Struct(">I")
_NO_BYTES = b""


class FrameType(IntEnum):
    """What a frame is. The lock and admin programs use only calls and replies."""

    CALL = 0
    REPLY = 1
    MESSAGE = 2
    STREAM = 3
    CALL_WITH_FDS = 4
    REPLY_WITH_FDS = 5
    STREAM_HOLE = 6


class Status(IntEnum):
    """The outcome that a frame carries; a call carries OK."""

    OK = 0
    ERROR = 1
    CONTINUE = 2


class Frame(NamedTuple):
    """A frame, taken apart. The numbers are as the peer sent them: known or not."""

    length: int
    program: int
    version: int
    procedure: int
    type: int
    serial: int
    status: int
    payload: bytes


class FrameError(ValueError):
    """The stream cannot be followed any further: the connection has to be closed."""


def encode(
    program: int,
    version: int,
    procedure: int,
    type_: int,
    serial: int,
    status: int = Status.OK,
    payload: bytes = _NO_BYTES,
) -> bytes:
    """Return the bytes of one frame."""
    length = HEADER.size + len(payload)
    return HEADER.pack(length, program, version, procedure, type_, serial, status) + payload


def encode_reply(call: Frame, payload: bytes = _NO_BYTES, status: int = Status.OK) -> bytes:
    """Return the reply to ``call``: it repeats program, version, procedure and serial."""
    return encode(call.program, call.version, call.procedure, FrameType.REPLY, call.serial, status, payload)


def without_descriptors(call: Frame) -> Frame:
    """Return a CALL_WITH_FDS as the plain call that it is where it brings no descriptors.

    Its payload begins with their number. No procedure here takes any, so a peer that sends some is lost.

    :raises FrameError: it brings descriptors, or does not say how many.
    """
    if call.payload[: _LENGTH.size] != bytes(_LENGTH.size):
        raise FrameError("a call with descriptors")
    return call._replace(type=FrameType.CALL, payload=call.payload[_LENGTH.size :])


class FrameReader:
    """Cuts a byte stream into frames.

    :param payload_kept: how many bytes of a payload are kept. A peer may announce 32 MiB, but no call
        has arguments of that size, and what follows the arguments is ignored; so the rest is dropped
        as it arrives, and a peer's half frame never costs more memory than this.
    """

    __slots__ = ("_buffer", "_missing", "_offset", "_oversized", "_payload_kept")

    def __init__(self, payload_kept: int) -> None:
        self._payload_kept = payload_kept
        self._buffer = _NO_BYTES
        self._offset = 0
        self._oversized: Frame | None = None
        self._missing = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._missing:
            dropped = min(self._missing, len(data))
            self._missing -= dropped
            data = data[dropped:]
        if self._offset == len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[self._offset :] + data
        self._offset = 0

    def next_frame(self) -> Frame | None:
        """Return the next frame, or None until more bytes are fed.

        :raises FrameError: its length is one that no frame has.
        """
        if self._oversized is not None:
            return self._next_oversized()
        offset = self._offset
        buffered = len(self._buffer) - offset
        if buffered < HEADER.size:
            if buffered >= _LENGTH.size:
                _check_length(*_LENGTH.unpack_from(self._buffer, offset))
            return None
        header: tuple[int, int, int, int, int, int, int] = HEADER.unpack_from(self._buffer, offset)
        length = header[0]
        _check_length(length)
        start = offset + HEADER.size
        if buffered >= length:
            self._offset = end = offset + length
            return Frame(*header, self._buffer[start : min(end, start + self._payload_kept)])
        if buffered - HEADER.size >= self._payload_kept:
            self._oversized = Frame(*header, self._buffer[start : start + self._payload_kept])
            self._missing = length - buffered
            self._offset = len(self._buffer)
        return None

    def _next_oversized(self) -> Frame | None:
        if self._missing:
            return None
        frame, self._oversized = self._oversized, None
        return frame

    @property
    def unfinished(self) -> tuple[bytes, int]:
        """What has arrived and was not returned as a frame, and how many bytes of it are to be dropped.

        A hand-over carries both to the next process, which gives them to ``resume``.
        """
        rest = self._buffer[self._offset :]
        if self._oversized is None:
            return rest, 0
        length, *header, payload = self._oversized
        if not self._missing:
            # All of it was there. What was dropped is not in it any more, so it is shorter now.
            length = HEADER.size + len(payload)
        return HEADER.pack(length, *header) + payload + rest, self._missing

    def resume(self, data: bytes, missing: int) -> None:
        """Go on where another reader's ``unfinished`` says it stopped."""
        self.feed(data)
        if missing:
            self.next_frame()
            self._missing = missing


def _check_length(length: int) -> None:
    if not LENGTH_MIN <= length <= LENGTH_MAX:
        raise FrameError(f"a frame of {length} bytes: {LENGTH_MIN} to {LENGTH_MAX} are possible")
