"""Frames: how calls and replies follow each other on a stream socket.

A frame is its own length (u32, itself included) and a header of six u32, then the payload.
"""

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from struct import Struct
from typing import Any, Final, NamedTuple

HEADER = Struct(">7I")
"""Length, program, version, procedure, type, serial, status."""

LENGTH_MIN = HEADER.size
LENGTH_MAX = 33554436
"""The largest length that virtlockd believes: 32 MiB of frame after the length itself."""

_HEADER_SIZE = HEADER.size
_LENGTH = Struct(">I")
_pack_header = HEADER.pack
_unpack_header = HEADER.unpack_from
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


# Members of an enumeration take several times as long to look up.
_REPLY: Final = int(FrameType.REPLY)
_OK: Final = int(Status.OK)


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


# NamedTuple's own constructor is a Python function, and takes three times as long.
_make_frame: Callable[[tuple[Any, ...]], Frame] = partial(tuple.__new__, Frame)


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


def encode_success(call: Frame) -> bytes:
    """Return the reply to ``call`` that says no more than that it was done."""
    return _pack_header(_HEADER_SIZE, call.program, call.version, call.procedure, _REPLY, call.serial, _OK)


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

    __slots__ = ("_buffer", "_kept", "_missing", "_offset", "_oversized")

    def __init__(self, payload_kept: int) -> None:
        self._kept = _HEADER_SIZE + payload_kept
        self._buffer = _NO_BYTES
        self._offset = 0
        self._oversized: Frame | None = None
        self._missing = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing has arrived that was not returned as a frame."""
        return not self._buffer and self._oversized is None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._missing:
            dropped = min(self._missing, len(data))
            self._missing -= dropped
            data = data[dropped:]
        if self._buffer:
            self._buffer = self._buffer[self._offset :] + data
            self._offset = 0
        else:
            self._buffer = data

    def receive(self, data: bytes) -> Frame | None:
        """Take the next bytes of the stream, and return the first frame that is whole now, if any.

        Mostly the bytes are one frame and no more: that one is cut without another look.

        :raises FrameError: its length is one that no frame has.
        """
        size = len(data)
        if _HEADER_SIZE <= size <= self._kept and self.is_empty:
            header = _unpack_header(data, 0)
            if header[0] == size:
                return _make_frame((*header, data[_HEADER_SIZE:]))
        self.feed(data)
        return self.next_frame()

    def next_frame(self) -> Frame | None:
        """Return the next frame, or None until more bytes are fed.

        :raises FrameError: its length is one that no frame has.
        """
        if self._oversized is not None:
            return self._next_oversized()
        buffer, offset = self._buffer, self._offset
        available = len(buffer) - offset
        if available < _HEADER_SIZE:
            if available >= _LENGTH.size:
                _check_length(*_LENGTH.unpack_from(buffer, offset))
            return None
        header = _unpack_header(buffer, offset)
        length = header[0]
        if not LENGTH_MIN <= length <= available:
            _check_length(length)
            if available >= self._kept:
                self._keep_oversized(header, length - available)
            return None
        if length == available:
            # All of it: an idle client costs no buffer.
            self._buffer, self._offset = _NO_BYTES, 0
        else:
            self._offset = offset + length
        end = offset + (length if length < self._kept else self._kept)
        return _make_frame((*header, buffer[offset + _HEADER_SIZE : end]))

    def _keep_oversized(self, header: tuple[int, ...], missing: int) -> None:
        """Keep what arguments can be in; the rest of the frame is dropped as it arrives."""
        start = self._offset
        self._oversized = _make_frame((*header, self._buffer[start + _HEADER_SIZE : start + self._kept]))
        self._missing = missing
        self._buffer, self._offset = _NO_BYTES, 0

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
