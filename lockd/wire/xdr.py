"""XDR values (RFC 4506) with the bounds that libvirt's protocols put on them.

A thin layer over ``xdrlib3``: it adds the bounds, checks that padding is there, and has one error for all
that can be wrong with a payload. The lock program's hot calls are decoded in ``lock``, by hand.
"""

from collections.abc import Callable
from struct import Struct
from typing import TypeVar

from xdrlib3 import Error, Packer, Unpacker

from lockd.wire.text import raw, text

T = TypeVar("T")

_UINT32 = Struct(">I")
_ABSENT = _UINT32.pack(0)
_PRESENT = _UINT32.pack(1)


class DecodeError(ValueError):
    """The payload does not hold the values that its procedure takes."""


def encode_string(string: str) -> bytes:
    """Return a string as XDR; on the hot path, where putting together an ``Encoder`` takes three times as long."""
    data = raw(string)
    return _UINT32.pack(len(data)) + data + bytes(-len(data) & 3)


def encode_optional_string(string: str | None) -> bytes:
    """Return a string that may be absent as XDR."""
    return _ABSENT if string is None else _PRESENT + encode_string(string)


class Decoder:
    """Takes values off the front of a payload; what follows the last one is ignored, as virtlockd does.

    Every method raises DecodeError where the payload ends early or a bound is not kept.
    """

    def __init__(self, payload: bytes) -> None:
        self._unpacker = Unpacker(payload)

    def uint32(self) -> int:
        """Take an unsigned 32-bit number."""
        return self._take(self._unpacker.unpack_uint)

    def int32(self) -> int:
        """Take a signed 32-bit number."""
        return self._take(self._unpacker.unpack_int)

    def uint64(self) -> int:
        """Take an unsigned 64-bit number."""
        return self._take(self._unpacker.unpack_uhyper)

    def int64(self) -> int:
        """Take a signed 64-bit number."""
        return self._take(self._unpacker.unpack_hyper)

    def double(self) -> float:
        """Take a double-precision number."""
        return self._take(self._unpacker.unpack_double)

    def opaque(self, size: int) -> bytes:
        """Take ``size`` bytes."""
        return self._take(lambda: self._unpacker.unpack_fopaque(size))

    def string(self, limit: int) -> str:
        """Take a string of at most ``limit`` bytes."""
        size = self.uint32()
        if size > limit:
            raise DecodeError(f"a string of {size} bytes, {limit} are possible")
        return text(self._take(lambda: self._unpacker.unpack_fstring(size)))

    def optional_string(self, limit: int) -> str | None:
        """Take a string that may be absent."""
        return self.string(limit) if self.boolean() else None

    def boolean(self) -> bool:
        """Take a boolean, which XDR sends as 0 or 1."""
        value = self.uint32()
        if value > 1:
            raise DecodeError(f"a boolean of value {value}")
        return value == 1

    def array(self, limit: int, item: Callable[[], T]) -> list[T]:
        """Take an array of at most ``limit`` items, each taken by ``item``."""
        count = self.uint32()
        if count > limit:
            raise DecodeError(f"an array of {count} items, {limit} are possible")
        return [item() for _ in range(count)]

    def _take(self, unpack: Callable[[], T]) -> T:
        try:
            return unpack()
        except (Error, EOFError) as error:
            raise DecodeError("the payload ends early") from error


class Encoder:
    """Puts values together to a payload."""

    def __init__(self) -> None:
        self._packer = Packer()

    def uint32(self, value: int) -> None:
        """Put an unsigned 32-bit number."""
        self._packer.pack_uint(value)

    def int32(self, value: int) -> None:
        """Put a signed 32-bit number."""
        self._packer.pack_int(value)

    def uint64(self, value: int) -> None:
        """Put an unsigned 64-bit number."""
        self._packer.pack_uhyper(value)

    def int64(self, value: int) -> None:
        """Put a signed 64-bit number."""
        self._packer.pack_hyper(value)

    def double(self, value: float) -> None:
        """Put a double-precision number."""
        self._packer.pack_double(value)

    def boolean(self, value: bool) -> None:
        """Put a boolean."""
        self._packer.pack_bool(value)

    def opaque(self, value: bytes) -> None:
        """Put bytes whose number both sides know."""
        self._packer.pack_fopaque(len(value), value)

    def string(self, value: str) -> None:
        """Put a string."""
        self._packer.pack_string(raw(value))

    def optional_string(self, value: str | None) -> None:
        """Put a string that may be absent."""
        self.boolean(value is not None)
        if value is not None:
            self.string(value)

    def payload(self) -> bytes:
        """Return all that was put."""
        return self._packer.get_buffer()
