"""A client of the admin program that can send payloads that virt-admin cannot send."""

import socket
from pathlib import Path
from typing import Self

from lockd.wire import admin
from lockd.wire.admin import ParameterType, Procedure
from lockd.wire.errors import ErrorReply
from lockd.wire.frames import Frame, FrameReader, FrameType, Status, encode
from lockd.wire.xdr import Encoder
from tests.waiting import wait_until

RawParameter = tuple[str, int, int | float | str]
"""Name, type and value; the type may be unknown."""


def arguments(*values: int | str | bytes) -> bytes:
    """Encode a payload: a number as u32, text as a string, bytes unchanged."""
    parts = []
    for value in values:
        encoder = Encoder()
        if isinstance(value, int):
            encoder.uint32(value)
        elif isinstance(value, str):
            encoder.string(value)
        parts.append(value if isinstance(value, bytes) else encoder.payload())
    return b"".join(parts)


def optional(text: str | None) -> bytes:
    """Encode a string that may be absent."""
    encoder = Encoder()
    encoder.optional_text(text)
    return encoder.payload()


def client(server: str, number: int, timestamp: int = 0, transport: int = 0) -> bytes:
    """Encode a client, as in the arguments of calls about a client."""
    encoder = Encoder()
    encoder.string(server)
    encoder.uint64(number)
    encoder.int64(timestamp)
    encoder.uint32(transport)
    return encoder.payload()


def number64(value: int) -> bytes:
    encoder = Encoder()
    encoder.uint64(value)
    return encoder.payload()


def parameters(*values: RawParameter) -> bytes:
    """Encode typed parameters; the value of a parameter of unknown type is a u32."""
    encoder = Encoder()
    encoder.uint32(len(values))
    for name, type_, value in values:
        encoder.string(name)
        encoder.int32(type_)
        match type_, value:
            case ParameterType.STRING, str():
                encoder.string(value)
            case ParameterType.DOUBLE, float():
                encoder.double(value)
            case ParameterType.LLONG | ParameterType.ULLONG, int():
                encoder.uint64(value)
            case _, int():
                encoder.uint32(value)
            case _:
                raise TypeError(f"{value!r} is not of type {type_}")
    return encoder.payload()


class RawAdmin:
    """A connection to a daemon's admin socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(15)
        # A daemon that already answers at its lock socket may not have created this socket yet.
        wait_until(lambda: self._socket.connect_ex(str(path)) == 0, f"{path} is served")
        self._reader = FrameReader(1 << 25)
        self._serial = 0

    def call(self, procedure: Procedure | int, payload: bytes = b"") -> Frame | None:
        """Send a call and return the reply, or None if the daemon closes the connection."""
        self._serial += 1
        frame = encode(admin.PROGRAM, admin.VERSION, procedure, FrameType.CALL, self._serial, payload=payload)
        try:
            self._socket.sendall(frame)
        except (BrokenPipeError, ConnectionResetError):
            return None
        return self._next_frame()

    def result(self, procedure: Procedure, payload: bytes = b"") -> bytes:
        """Send a call that has to succeed and return its result."""
        reply = self.call(procedure, payload)
        assert reply is not None
        assert reply.status == Status.OK, ErrorReply.decode(reply.payload)
        return reply.payload

    def error(self, procedure: Procedure, payload: bytes = b"") -> ErrorReply:
        """Send a call that has to fail and return its error."""
        reply = self.call(procedure, payload)
        assert reply is not None
        assert reply.status == Status.ERROR
        return ErrorReply.decode(reply.payload)

    def has_ended(self) -> bool:
        """Wait for the daemon to close the connection; return whether it did."""
        return self._next_frame() is None

    def _next_frame(self) -> Frame | None:
        while (frame := self._reader.next_frame()) is None:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._reader.feed(data)
        return frame

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()
