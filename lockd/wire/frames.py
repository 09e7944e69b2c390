"""Frames: how calls and replies follow each other on a stream socket.

A frame is its own length (u32, itself included) and a header of six u32, then the payload.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    # A number of the machine's own, once compiled; uncompiled, no annotation is looked at.
    from mypy_extensions import i64

HEADER: Final = Struct(">7I")
"""Length, program, version, procedure, type, serial, status."""

LENGTH_MIN: Final = 28
LENGTH_MAX: Final = 33554436
"""The largest length that virtlockd believes: 32 MiB of frame after the length itself."""

_HEADER_SIZE: Final = 28
_LENGTH: Final = Struct(">I")
_KIND: Final = Struct(">4I")
_NO_BYTES: Final = b""
_WORD: Final = 4
_SERIAL: Final = 20
"""Where in a frame it begins; the status is what follows."""


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


class Frame:
    """A frame: its header, and as much of its payload as is kept.

    The numbers are as the peer sent them: known or not. They are taken from the bytes when somebody asks, which
    for most calls nobody does: all calls of one kind have the same 16 bytes in common.

    :ivar data: its bytes. The length in them is that of the whole frame, also where its end was dropped.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def kind(self) -> bytes:
        """Program, version, procedure and type, as ``kind`` encodes them."""
        return self.data[4:20]

    @property
    def is_ok(self) -> bool:
        """Whether its status is OK."""
        return self.status == 0

    @property
    def program(self) -> int:
        """The number of the program that is called."""
        return self._number(1)

    @property
    def version(self) -> int:
        """The version of the program."""
        return self._number(2)

    @property
    def procedure(self) -> int:
        """What is asked of the program."""
        return self._number(3)

    @property
    def type(self) -> int:
        """One of ``FrameType``, if it is known."""
        return self._number(4)

    @property
    def serial(self) -> int:
        """What the caller knows its reply by."""
        return self._number(5)

    @property
    def status(self) -> int:
        """One of ``Status``, if it is known."""
        return self._number(6)

    @property
    def payload(self) -> bytes:
        """The arguments, or the result."""
        return self.data[_HEADER_SIZE:]

    @property
    def shortened(self) -> bytes:
        """The bytes of a frame that is as long as what is kept of this one."""
        return _LENGTH.pack(len(self.data)) + self.data[_LENGTH.size :]

    def _number(self, place: int) -> int:
        return uint32(self.data, place * _WORD)


class FrameError(ValueError):
    """The stream cannot be followed any further: the connection has to be closed."""


def uint32(data: bytes, place: i64) -> i64:
    """Return the number that begins at a place; compiled, this takes a tenth of the time of ``struct``.

    :raises IndexError: the data ends before it does.
    """
    return data[place] << 24 | data[place + 1] << 16 | data[place + 2] << 8 | data[place + 3]


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


def kind(program: int, version: int, procedure: int, type_: int = FrameType.CALL) -> bytes:
    """Return what all frames of one kind have in common."""
    return _KIND.pack(program, version, procedure, type_)


def success_template(program: int, version: int, procedure: int) -> bytes:
    """Return what ``encode_success`` begins all replies to one kind of call with."""
    return _LENGTH.pack(_HEADER_SIZE) + kind(program, version, procedure, FrameType.REPLY)


def encode_success(template: bytes, call: Frame) -> bytes:
    """Return the reply to ``call`` that says no more than that it was done."""
    # The serial is the call's, and so is the status: it came with OK too.
    return template + call.data[_SERIAL:_HEADER_SIZE]


def encode_reply(call: Frame, payload: bytes = _NO_BYTES, status: int = Status.OK) -> bytes:
    """Return the reply to ``call``: it repeats program, version, procedure and serial."""
    return encode(call.program, call.version, call.procedure, FrameType.REPLY, call.serial, status, payload)


def without_descriptors(call: Frame) -> Frame:
    """Return a CALL_WITH_FDS as the plain call that it is where it brings no descriptors.

    Its payload begins with their number. No procedure here takes any, so a peer that sends some is lost.

    :raises FrameError: it brings descriptors, or does not say how many.
    """
    number, arguments = call.payload[: _LENGTH.size], call.payload[_LENGTH.size :]
    if number != bytes(_LENGTH.size):
        raise FrameError("a call with descriptors")
    return Frame(
        encode(
            call.program, call.version, call.procedure, FrameType.CALL, call.serial, call.status, arguments
        )
    )


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
        if _HEADER_SIZE <= size <= self._kept and not self._buffer and self._oversized is None:
            length = uint32(data, 0)
            if length == size:
                return Frame(data)
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
                _check_length(uint32(buffer, offset))
            return None
        length = uint32(buffer, offset)
        if not LENGTH_MIN <= length <= available:
            _check_length(length)
            if available >= self._kept:
                self._keep_oversized(length - available)
            return None
        if length == available:
            # All of it: an idle client costs no buffer.
            self._buffer, self._offset = _NO_BYTES, 0
        else:
            self._offset = offset + length
        end = offset + (length if length < self._kept else self._kept)
        return Frame(buffer[offset:end])

    def _keep_oversized(self, missing: int) -> None:
        """Keep what arguments can be in; the rest of the frame is dropped as it arrives."""
        start = self._offset
        self._oversized = Frame(self._buffer[start : start + self._kept])
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
        frame = self._oversized
        return (frame.data if self._missing else frame.shortened) + rest, self._missing

    def resume(self, data: bytes, missing: int) -> None:
        """Go on where another reader's ``unfinished`` says it stopped."""
        self.feed(data)
        if missing:
            self.next_frame()
            self._missing = missing


def _check_length(length: int) -> None:
    if not LENGTH_MIN <= length <= LENGTH_MAX:
        raise FrameError(f"a frame of {length} bytes: {LENGTH_MIN} to {LENGTH_MAX} are possible")
