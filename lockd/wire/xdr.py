"""XDR values (RFC 4506), with the limits that libvirt's protocols set for them.

This is a thin layer over ``xdrlib3``. It adds the limits, checks that the padding is there, and raises one
exception, ``DecodeError``, for everything that can be wrong with a payload. The most frequent calls of the
lock program are decoded in ``lock``, without this module.
"""

from collections.abc import Callable
from struct import Struct
from typing import TypeVar

from xdrlib3 import Error, Packer, Unpacker

from lockd.wire.text import raw, raw_or_escaped, text

T = TypeVar("T")

_UINT32 = Struct(">I")
_ABSENT = _UINT32.pack(0)
_PRESENT = _UINT32.pack(1)


class DecodeError(ValueError):
    """A payload does not hold the values that its procedure takes."""


def encode_string(string: str) -> bytes:
    """Encode a string. This is for frequent calls: with an ``Encoder`` it takes three times as long.

    :param string: the string.
    :returns: its XDR form.
    :raises UnicodeEncodeError: the string is not a name (``lockd.wire.text.raw``).
    """
    return _encode_bytes(raw(string))


def encode_optional_text(string: str | None) -> bytes:
    """Encode a text that people read, which may be absent. This never fails (``raw_or_escaped``).

    :param string: the text; None if it is absent.
    :returns: its XDR form, a string that may be absent.
    """
    return _ABSENT if string is None else _PRESENT + _encode_bytes(raw_or_escaped(string))


def _encode_bytes(data: bytes) -> bytes:
    return _UINT32.pack(len(data)) + data + bytes(-len(data) & 3)


class Decoder:
    """Decodes values, one after the other. Bytes after the last value are ignored, as virtlockd does.

    Every method raises ``DecodeError`` if the payload ends too early or a value exceeds its limit.

    :param payload: the payload of a call or a reply.
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
        """Take a fixed number of bytes.

        :param size: how many bytes.
        :returns: the bytes.
        :raises DecodeError: the payload ends too early.
        """
        return self._take(lambda: self._unpacker.unpack_fopaque(size))

    def string(self, limit: int) -> str:
        """Take a string.

        :param limit: its maximum length in bytes.
        :returns: the string.
        :raises DecodeError: the string is longer, or the payload ends too early.
        """
        size = self.uint32()
        if size > limit:
            raise DecodeError(f"a string of {size} bytes, {limit} are possible")
        return text(self._take(lambda: self._unpacker.unpack_fstring(size)))

    def optional_string(self, limit: int) -> str | None:
        """Take a string that may be absent.

        :param limit: its maximum length in bytes.
        :returns: the string, or None if it is absent.
        :raises DecodeError: the string is longer, or the payload ends too early.
        """
        return self.string(limit) if self.boolean() else None

    def boolean(self) -> bool:
        """Take a boolean: in XDR, the number 0 or 1."""
        value = self.uint32()
        if value > 1:
            raise DecodeError(f"a boolean of value {value}")
        return value == 1

    def array(self, limit: int, item: Callable[[], T]) -> list[T]:
        """Take an array.

        :param limit: the maximum number of items.
        :param item: takes one item from this decoder.
        :returns: the items.
        :raises DecodeError: the array has more items, or the payload ends too early.
        """
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
    """Encodes values, one after the other."""

    def __init__(self) -> None:
        self._packer = Packer()

    def uint32(self, value: int) -> None:
        """Add an unsigned 32-bit number.

        :param value: the number.
        :raises ConversionError: the number is out of range (``xdrlib3``).
        """
        self._packer.pack_uint(value)

    def int32(self, value: int) -> None:
        """Add a signed 32-bit number.

        :param value: the number.
        :raises ConversionError: the number is out of range (``xdrlib3``).
        """
        self._packer.pack_int(value)

    def uint64(self, value: int) -> None:
        """Add an unsigned 64-bit number.

        :param value: the number.
        """
        self._packer.pack_uhyper(value)

    def int64(self, value: int) -> None:
        """Add a signed 64-bit number.

        :param value: the number.
        """
        self._packer.pack_hyper(value)

    def double(self, value: float) -> None:
        """Add a double-precision number.

        :param value: the number.
        """
        self._packer.pack_double(value)

    def boolean(self, value: bool) -> None:
        """Add a boolean.

        :param value: the boolean.
        """
        self._packer.pack_bool(value)

    def opaque(self, value: bytes) -> None:
        """Add a fixed number of bytes. The number is not encoded.

        :param value: the bytes.
        """
        self._packer.pack_fopaque(len(value), value)

    def string(self, value: str) -> None:
        """Add a string that is a name.

        :param value: the string.
        :raises UnicodeEncodeError: the string is not a name (``lockd.wire.text.raw``).
        """
        self._packer.pack_string(raw(value))

    def text(self, value: str) -> None:
        """Add a string that is a text for people. This never fails (``raw_or_escaped``).

        :param value: the text.
        """
        self._packer.pack_string(raw_or_escaped(value))

    def optional_text(self, value: str | None) -> None:
        """Add a string that is a text for people, and may be absent.

        :param value: the text; None if it is absent.
        """
        self.boolean(value is not None)
        if value is not None:
            self.text(value)

    def payload(self) -> bytes:
        """Return the encoded values."""
        return self._packer.get_buffer()
