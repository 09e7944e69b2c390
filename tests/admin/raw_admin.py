"""A client of the admin program that can send what virt-admin cannot."""

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
"""Name, type and value; the type need not be a known one."""


def arguments(*values: int | str | bytes) -> bytes:
    """A payload: numbers are u32, text is a string, bytes are put as they are."""
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
    """A string that may be absent."""
    encoder = Encoder()
    encoder.optional_string(text)
    return encoder.payload()


def client(server: str, number: int, timestamp: int = 0, transport: int = 0) -> bytes:
    """A client."""
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
    """Typed parameters; one of an unknown type has a u32 for its value."""
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
        # A daemon that serves at its lock socket may be about to make this one.
        wait_until(lambda: self._socket.connect_ex(str(path)) == 0, f"{path} is served")
        self._reader = FrameReader(1 << 25)
        self._serial = 0

    def call(self, procedure: Procedure | int, payload: bytes = b"") -> Frame | None:
        """Return the reply; None where the connection ends instead."""
        self._serial += 1
        frame = encode(admin.PROGRAM, admin.VERSION, procedure, FrameType.CALL, self._serial, payload=payload)
        try:
            self._socket.sendall(frame)
        except (BrokenPipeError, ConnectionResetError):
            return None
        return self._next_frame()

    def result(self, procedure: Procedure, payload: bytes = b"") -> bytes:
        """Return the result of a call that has to succeed."""
        reply = self.call(procedure, payload)
        assert reply is not None
        assert reply.status == Status.OK, ErrorReply.decode(reply.payload)
        return reply.payload

    def error(self, procedure: Procedure, payload: bytes = b"") -> ErrorReply:
        """Return the error of a call that has to fail."""
        reply = self.call(procedure, payload)
        assert reply is not None
        assert reply.status == Status.ERROR
        return ErrorReply.decode(reply.payload)

    def has_ended(self) -> bool:
        """Whether the daemon closes the connection; waits for it."""
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
