"""Encoding and decoding of single XDR values, compared with xdrlib3."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdrlib3 import Packer, Unpacker

from lockd.wire.text import text
from lockd.wire.xdr import DecodeError, Decoder, Encoder
from tests.wire.strategies import int32, names, packed, uint32

LIMIT = 100


@given(
    uint32,
    int32,
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    names,
    names | st.none(),
    st.binary(min_size=5, max_size=5),
)
def test_values_are_encoded_as_xdrlib_does_and_decoded_again(
    unsigned: int,
    signed: int,
    large_unsigned: int,
    large_signed: int,
    number: float,
    flag: bool,
    name: bytes,
    optional: bytes | None,
    opaque: bytes,
) -> None:
    optional_text = None if optional is None else text(optional)
    encoder = Encoder()
    encoder.uint32(unsigned)
    encoder.int32(signed)
    encoder.uint64(large_unsigned)
    encoder.int64(large_signed)
    encoder.double(number)
    encoder.boolean(flag)
    encoder.string(text(name))
    encoder.optional_text(optional_text)
    encoder.opaque(opaque)
    payload = encoder.payload()

    packer = Packer()
    packer.pack_uhyper(large_unsigned)
    packer.pack_hyper(large_signed)
    packer.pack_double(number)
    assert payload == (
        packed("ui", unsigned, signed) + packer.get_buffer() + packed("bsof", flag, name, optional, opaque)
    )

    decoder = Decoder(payload)
    assert (decoder.uint32(), decoder.int32()) == (unsigned, signed)
    assert (decoder.uint64(), decoder.int64()) == (large_unsigned, large_signed)
    decoded = decoder.double()
    assert decoded == number or (math.isnan(decoded) and math.isnan(number))
    assert (decoder.boolean(), decoder.string(LIMIT)) == (flag, text(name))
    assert decoder.optional_string(LIMIT) == optional_text
    assert decoder.opaque(5) == opaque
    with pytest.raises(DecodeError, match="ends early"):
        decoder.uint32()


@given(st.lists(uint32, max_size=8))
def test_arrays_decode_as_xdrlib_decodes_them(numbers: list[int]) -> None:
    packer = Packer()
    packer.pack_array(numbers, packer.pack_uint)
    payload = packer.get_buffer()
    decoder = Decoder(payload)
    unpacker = Unpacker(payload)
    assert decoder.array(8, decoder.uint32) == unpacker.unpack_array(unpacker.unpack_uint) == numbers


def test_a_path_names_the_same_file_in_any_locale() -> None:
    """Python encodes a text as a file name with an encoding that depends on the locale."""
    program = (
        "import os, sys; from lockd.wire.text import text; print(os.fsencode(text(os.fsencode(sys.argv[1]))))"
    )
    for name in (b"/disk", "/Bücher".encode(), b"/\xff\xe9"):
        run = subprocess.run(
            [sys.executable, "-c", program, name],
            env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == repr(name)


def test_a_length_above_its_bound_is_refused() -> None:
    huge = packed("u", 2**32 - 1)
    with pytest.raises(DecodeError, match="4294967295 bytes, 100 are possible"):
        Decoder(huge).string(LIMIT)
    with pytest.raises(DecodeError, match="4294967295 items, 100 are possible"):
        Decoder(huge).array(LIMIT, lambda: None)
    with pytest.raises(DecodeError, match="a boolean of value 2"):
        Decoder(packed("u", 2)).boolean()
