"""Frames: the messages that calls and replies are sent in on a stream socket.

A frame is its length (u32, which counts itself too), a header of six u32, and the payload.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    # mypyc compiles this type to a machine integer. Uncompiled, annotations are not evaluated.
    from mypy_extensions import i64

HEADER: Final = Struct(">7I")
"""The length and the header: length, program, version, procedure, type, serial, status."""

LENGTH_MIN: Final = 28
LENGTH_MAX: Final = 33554436
"""The largest length that virtlockd accepts: 4 bytes for the length itself, and 32 MiB after it."""

_HEADER_SIZE: Final = 28
_LENGTH: Final = Struct(">I")
_KIND: Final = Struct(">4I")
_NO_BYTES: Final = b""
_WORD: Final = 4
_SERIAL: Final = 20
"""Index of the serial in a frame. The status follows it."""


class FrameType(IntEnum):
    """The type of a frame. The lock and admin programs use only calls and replies."""

    CALL = 0
    REPLY = 1
    MESSAGE = 2
    STREAM = 3
    CALL_WITH_FDS = 4
    REPLY_WITH_FDS = 5
    STREAM_HOLE = 6


class Status(IntEnum):
    """The outcome that a frame reports. A call has OK."""

    OK = 0
    ERROR = 1
    CONTINUE = 2


class Frame:
    """A frame: its header, and the part of its payload that was kept.

    The numbers are as the peer sent them, so they may be unknown ones. They are decoded only when they are
    read. Most calls need none of them: the daemon finds the handler by the 16 bytes of ``kind``.

    :param data: the bytes of the frame.
    :ivar data: see the parameter. If the end of the payload was dropped, the length in these bytes is still
        that of the whole frame.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def kind(self) -> bytes:
        """The bytes of program, version, procedure and type, as the function ``kind`` encodes them."""
        return self.data[4:20]

    @property
    def is_ok(self) -> bool:
        """Whether the status is OK."""
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
        """The number of the procedure that is called."""
        return self._number(3)

    @property
    def type(self) -> int:
        """The type: one of ``FrameType``, if it is known."""
        return self._number(4)

    @property
    def serial(self) -> int:
        """The number that the caller gave to the call. The reply has the same number."""
        return self._number(5)

    @property
    def status(self) -> int:
        """The status: one of ``Status``, if it is known."""
        return self._number(6)

    @property
    def payload(self) -> bytes:
        """The arguments of a call, or the result of a reply."""
        return self.data[_HEADER_SIZE:]

    @property
    def shortened(self) -> bytes:
        """The frame as bytes, with the length of the part that was kept.

        A reader takes them as a whole frame, even if the end of the payload was dropped.
        """
        return _LENGTH.pack(len(self.data)) + self.data[_LENGTH.size :]

    def _number(self, place: int) -> int:
        return uint32(self.data, place * _WORD)


class FrameError(ValueError):
    """The stream cannot be decoded any further. The connection has to be closed."""


def uint32(data: bytes, place: i64) -> i64:
    """Decode an unsigned 32-bit number. Compiled, this takes a tenth of the time that ``struct`` takes.

    :param data: the bytes.
    :param place: the index of the number's first byte.
    :returns: the number.
    :raises IndexError: the data ends before the number does.
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
    """Encode a frame.

    :param program: the number of the program.
    :param version: the version of the program.
    :param procedure: the number of the procedure.
    :param type_: the type; one of ``FrameType``.
    :param serial: the number that the caller gave to the call.
    :param status: the outcome; one of ``Status``.
    :param payload: the arguments or the result, encoded.
    :returns: the bytes of the frame.
    """
    length = HEADER.size + len(payload)
    return HEADER.pack(length, program, version, procedure, type_, serial, status) + payload


def kind(program: int, version: int, procedure: int, type_: int = FrameType.CALL) -> bytes:
    """Encode the part of the header that is the same in all frames of one kind.

    :param program: the number of the program.
    :param version: the version of the program.
    :param procedure: the number of the procedure.
    :param type_: the type; one of ``FrameType``.
    :returns: 16 bytes; they are what ``Frame.kind`` returns for such a frame.
    """
    return _KIND.pack(program, version, procedure, type_)


def success_template(program: int, version: int, procedure: int) -> bytes:
    """Encode the first 20 bytes of the replies that ``encode_success`` returns for one procedure.

    :param program: the number of the program.
    :param version: the version of the program.
    :param procedure: the number of the procedure.
    :returns: the length and the first four numbers of the header.
    """
    return _LENGTH.pack(_HEADER_SIZE) + kind(program, version, procedure, FrameType.REPLY)


def encode_success(template: bytes, call: Frame) -> bytes:
    """Encode a reply with status OK and without a payload.

    :param template: what ``success_template`` returned for the procedure.
    :param call: the call that is answered; its status has to be OK.
    :returns: the bytes of the reply.
    """
    # Both the serial and the status are copied from the call. The status of the call is OK.
    return template + call.data[_SERIAL:_HEADER_SIZE]


def encode_reply(call: Frame, payload: bytes = _NO_BYTES, status: int = Status.OK) -> bytes:
    """Encode a reply. Program, version, procedure and serial are those of the call.

    :param call: the call that is answered.
    :param payload: the result or the error, encoded.
    :param status: the outcome; one of ``Status``.
    :returns: the bytes of the reply.
    """
    return encode(call.program, call.version, call.procedure, FrameType.REPLY, call.serial, status, payload)


def without_descriptors(call: Frame) -> Frame:
    """Convert a CALL_WITH_FDS that brings no descriptors to a plain call.

    The payload of a CALL_WITH_FDS begins with the number of descriptors. No procedure of this daemon takes
    any. If a client sends some, its connection has to be closed.

    :param call: the CALL_WITH_FDS.
    :returns: the call, with type CALL and without the number of descriptors.
    :raises FrameError: the call brings descriptors, or their number is missing.
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
    """Splits a byte stream into frames. Its work is linear in the bytes that arrive, however they are cut.

    :param payload_kept: how many bytes of each payload are kept. A peer may announce a frame of 32 MiB, but
        no call has arguments of that size, and bytes after the arguments are ignored. So the rest of a longer
        payload is dropped as it arrives. An incomplete frame never takes more memory than this (Invariant 5).
    :ivar is_empty: whether all bytes that have arrived were returned as frames.
    """

    __slots__ = ("_buffer", "_half", "_kept", "_missing", "_needed", "_offset", "_oversized", "is_empty")

    def __init__(self, payload_kept: int) -> None:
        self._kept = _HEADER_SIZE + payload_kept
        # Frames are cut from ``_buffer``. Bytes that have arrived but are not a whole frame are in ``_half``:
        # adding to a bytearray does not copy what it has already. It is not looked at before it has
        # ``_needed`` bytes.
        self._buffer = _NO_BYTES
        self._offset = 0
        self._half: bytearray | None = None
        self._needed = 0
        self._oversized: Frame | None = None
        self._missing = 0
        self.is_empty = True

    def feed(self, data: bytes) -> None:
        """Add the next bytes of the stream.

        :param data: the bytes.
        """
        if self._missing:
            dropped = min(self._missing, len(data))
            self._missing -= dropped
            data = data[dropped:]
        if not data:
            return
        self.is_empty = False
        if self._half is not None:
            self._half += data
        elif self._buffer:
            self._keep_half(0)
            self.feed(data)
        else:
            self._buffer = data

    def receive(self, data: bytes) -> Frame | None:
        """Add the next bytes of the stream, and return the first frame that is complete.

        Usually the bytes are exactly one frame; that case is handled without copying them.

        :param data: the bytes.
        :returns: the frame, or None if no frame is complete yet.
        :raises FrameError: the length of the frame is not valid.
        """
        size = len(data)
        if _HEADER_SIZE <= size <= self._kept and self.is_empty:
            length = uint32(data, 0)
            if length == size:
                return Frame(data)
        self.feed(data)
        return self.next_frame()

    def next_frame(self) -> Frame | None:
        """Return the next complete frame.

        :returns: the frame, or None if more bytes are needed.
        :raises FrameError: the length of the frame is not valid.
        """
        if self._oversized is not None:
            return self._next_oversized()
        if self._half is not None:
            if len(self._half) < self._needed:
                return None
            self._buffer, self._half = bytes(self._half), None
        buffer, offset = self._buffer, self._offset
        available = len(buffer) - offset
        if available < _HEADER_SIZE:
            if available >= _LENGTH.size:
                _check_length(uint32(buffer, offset))
                self._keep_half(_HEADER_SIZE)
            elif available:
                self._keep_half(_LENGTH.size)
            return None
        length = uint32(buffer, offset)
        if not LENGTH_MIN <= length <= available:
            _check_length(length)
            if available >= self._kept:
                self._keep_oversized(length - available)
            else:
                self._keep_half(length if length < self._kept else self._kept)
            return None
        if length == available:
            # Nothing is left over. Keep no buffer, so that idle clients take no memory for one.
            self._buffer, self._offset = _NO_BYTES, 0
            self.is_empty = True
        else:
            self._offset = offset + length
        end = offset + (length if length < self._kept else self._kept)
        return Frame(buffer[offset:end])

    def _keep_half(self, needed: int) -> None:
        """Keep the rest of the buffer until it has the given number of bytes."""
        self._half = bytearray(self._buffer[self._offset :])
        self._needed = needed
        self._buffer, self._offset = _NO_BYTES, 0

    def _keep_oversized(self, missing: int) -> None:
        """Keep the first bytes of the frame; its other bytes are dropped as they arrive."""
        start = self._offset
        self._oversized = Frame(self._buffer[start : start + self._kept])
        self._missing = missing
        self._buffer, self._offset = _NO_BYTES, 0

    def _next_oversized(self) -> Frame | None:
        if self._missing:
            return None
        frame, self._oversized = self._oversized, None
        self.is_empty = not self._buffer and self._half is None
        return frame

    @property
    def unfinished(self) -> tuple[bytes, int]:
        """The bytes that were not returned as a frame, and how many of the bytes after them to drop.

        A live upgrade passes both to the next program, which gives them to ``resume``. If bytes are to be
        dropped, the bytes before them are all that is kept of their frame.
        """
        rest = self._buffer[self._offset :] if self._half is None else bytes(self._half)
        if self._oversized is None:
            return rest, 0
        frame = self._oversized
        return (frame.data if self._missing else frame.shortened) + rest, self._missing

    def resume(self, data: bytes, missing: int) -> None:
        """Continue the work of another reader, from its ``unfinished``.

        The other reader may belong to another version, which keeps more or less of each payload.

        :param data: the bytes that it had not returned as a frame.
        :param missing: how many of the following bytes to drop.
        :raises FrameError: bytes of a frame are to be dropped, but its header is missing.
        """
        if not missing:
            self.feed(data)
            return
        if len(data) < _HEADER_SIZE:
            raise FrameError(f"the end of a frame that begins with {len(data)} bytes")
        self._oversized = Frame(data[: self._kept])
        self._missing = missing
        self.is_empty = False


def _check_length(length: int) -> None:
    if not LENGTH_MIN <= length <= LENGTH_MAX:
        raise FrameError(f"a frame of {length} bytes: {LENGTH_MIN} to {LENGTH_MAX} are possible")
