"""Hypothesis strategies for numbers and strings that peers may send."""

from hypothesis import strategies as st
from xdrlib3 import Packer

uint32 = st.integers(0, 2**32 - 1)
int32 = st.integers(-(2**31), 2**31 - 1)

names = st.binary(max_size=40) | st.text(max_size=20).map(str.encode)
"""Short strings, as bytes: the name of a file need not be UTF-8."""


def packed(form: str, *values: bytes | int | str | None) -> bytes:
    """Encode values with xdrlib3.

    `form` has one letter for each value: u unsigned, i signed, b boolean, s string, o string or absent, f
    bytes of fixed length.
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
