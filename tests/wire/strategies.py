"""What peers may send: numbers, strings and frames."""

from hypothesis import strategies as st
from xdrlib3 import Packer

uint32 = st.integers(0, 2**32 - 1)
int32 = st.integers(-(2**31), 2**31 - 1)

# Bytes of any kind: a file's name need not be UTF-8.
names = st.binary(max_size=40) | st.text(max_size=20).map(str.encode)
"""The bytes of strings, short ones."""


def packed(form: str, *values: bytes | int | str | None) -> bytes:
    """What xdrlib3 makes of values, in the order of `form`.

    A letter each: u unsigned, i signed, b boolean, s string, o string or absent, f bytes of a known number.
    """
    packer = Packer()
    for kind, value in zip(form, values, strict=True):
        match kind, value:
            case "u", int():
                packer.pack_uint(value)
            case "i", int():
                packer.pack_int(value)
            case "b", bool():
                packer.pack_bool(value)
            case "s", bytes():
                packer.pack_string(value)
            case "f", bytes():
                packer.pack_fopaque(len(value), value)
            case "o", bytes():
                packer.pack_bool(True)
                packer.pack_string(value)
            case "o", None:
                packer.pack_bool(False)
            case _:
                raise TypeError(f"{value!r} is not of kind {kind}")
    return bytes(packer.get_buffer())
