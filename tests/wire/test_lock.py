"""The lock program's arguments are decoded as xdrlib3 decodes them: valid, truncated and garbage payloads."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from xdrlib3 import Error, Unpacker

from lockd.wire import lock
from lockd.wire.frames import FrameReader
from lockd.wire.text import raw, text
from lockd.wire.xdr import DecodeError
from tests.wire.strategies import names, packed, uint32


def bounded_string(unpacker: Unpacker) -> str:
    """Unpack a string of at most the protocol's length."""
    size = unpacker.unpack_uint()
    if size > lock.STRING_MAX:
        raise Error(f"{size} bytes")
    return text(unpacker.unpack_fstring(size))


def register(unpacker: Unpacker) -> tuple[lock.Owner, int]:
    uuid = UUID(bytes=unpacker.unpack_fopaque(16))
    owner = lock.Owner(uuid, bounded_string(unpacker), unpacker.unpack_uint(), unpacker.unpack_uint())
    return owner, unpacker.unpack_uint()


def resource(unpacker: Unpacker) -> tuple[str, str, int]:
    return bounded_string(unpacker), bounded_string(unpacker), unpacker.unpack_uint()


def lockspace(unpacker: Unpacker) -> tuple[str, int]:
    return bounded_string(unpacker), unpacker.unpack_uint()


# For each kind of arguments: lockd's decoder, and one that uses only xdrlib3.
DECODERS: dict[str, tuple[Callable[[bytes], Any], Callable[[Unpacker], Any]]] = {
    "register": (lock.decode_register, register),
    "flags": (lock.decode_flags, Unpacker.unpack_uint),
    "lockspace": (lock.decode_lockspace, lockspace),
    "create_lockspace": (lock.decode_create_lockspace, bounded_string),
    "resource": (lock.decode_resource, resource),
}
decoders = st.sampled_from(sorted(DECODERS))

valid_payloads = st.one_of(
    st.builds(
        lambda *values: packed("fsuuu", *values), st.binary(min_size=16, max_size=16), names, *[uint32] * 3
    ),
    uint32.map(lambda flags: packed("u", flags)),
    st.builds(lambda *values: packed("su", *values), names, uint32),
    names.map(lambda name: packed("s", name)),
    st.builds(lambda *values: packed("ssu", *values), names, names, uint32),
)
small_lengths = st.integers(0, 24).map(lambda size: packed("u", size))
garbage = st.lists(st.binary(max_size=12) | small_lengths | uint32.map(lambda n: packed("u", n))).map(
    b"".join
)


def outcome(decode: Callable[[Any], Any], payload: Any) -> Any:
    """Decode a payload; return the result, or None if it is invalid."""
    try:
        return decode(payload)
    except (DecodeError, Error, EOFError):
        return None


@given(decoders, valid_payloads | garbage, st.binary(max_size=8))
def test_arguments_decode_as_xdrlib_decodes_them(kind: str, payload: bytes, trailing: bytes) -> None:
    """The payload may be that of another procedure. Bytes after the arguments are ignored."""
    decode, by_xdrlib = DECODERS[kind]
    for data in (payload, payload + trailing):
        assert outcome(decode, data) == outcome(by_xdrlib, Unpacker(data))


@given(decoders, valid_payloads)
def test_arguments_that_are_cut_off_anywhere_decode_as_xdrlib_decodes_them(kind: str, payload: bytes) -> None:
    decode, by_xdrlib = DECODERS[kind]
    for end in range(len(payload)):
        assert outcome(decode, payload[:end]) == outcome(by_xdrlib, Unpacker(payload[:end]))


@pytest.mark.parametrize("size", [lock.STRING_MAX - 1, lock.STRING_MAX, lock.STRING_MAX + 1, 2**32 - 1])
@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("register", packed("f", bytes(16)), packed("uuu", 1, 2, 0)),
        ("lockspace", b"", packed("u", 0)),
        ("create_lockspace", b"", b""),
        ("resource", b"", packed("su", b"name", 0)),
        ("resource", packed("s", b"path"), packed("u", 0)),
    ],
)
def test_strings_have_libvirts_bound(kind: str, before: bytes, after: bytes, size: int) -> None:
    string = packed("s", b"x" * size) if size <= lock.STRING_MAX + 1 else packed("u", size) + bytes(100)
    decode, by_xdrlib = DECODERS[kind]
    payload = before + string + after
    assert outcome(decode, payload) == outcome(by_xdrlib, Unpacker(payload))
    assert (outcome(decode, payload) is not None) == (size <= lock.STRING_MAX)


def test_the_largest_arguments_fit_into_what_a_reader_keeps() -> None:
    string = b"x" * lock.STRING_MAX
    payload = packed("ssu", string, string, 3)
    assert len(payload) == lock.ARGUMENTS_MAX
    assert lock.decode_resource(payload) == (string.decode(), string.decode(), 3)


@given(st.binary(min_size=16, max_size=16), names, uint32, uint32, uint32)
def test_register_is_encoded_as_xdrlib_does(
    uuid: bytes, name: bytes, number: int, pid: int, flags: int
) -> None:
    owner = lock.Owner(UUID(bytes=uuid), text(name), number, pid)
    payload = lock.encode_register(owner, flags)
    assert payload == packed("fsuuu", uuid, name, number, pid, flags)
    assert lock.decode_register(payload) == (owner, flags)


@given(names, names, uint32)
@example(b"", b"", 0)
def test_the_other_calls_are_encoded_as_xdrlib_does(path: bytes, name: bytes, flags: int) -> None:
    assert lock.encode_resource(text(path), text(name), flags) == packed("ssu", path, name, flags)
    assert lock.encode_lockspace(text(path), flags) == packed("su", path, flags)
    assert lock.encode_create_lockspace(text(path)) == packed("s", path)
    assert lock.encode_flags(flags) == packed("u", flags)


@given(st.binary())
def test_a_name_of_any_bytes_survives(name: bytes) -> None:
    assert raw(text(name)) == name


@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_but_its_own_errors(data: bytes) -> None:
    """Read a frame from the data, and decode its payload as each kind of arguments."""
    reader = FrameReader(lock.ARGUMENTS_MAX)
    reader.feed((b"\0\0\0" + bytes([28 + len(data) % 100])) + data)
    frame = reader.next_frame()
    if frame is not None:
        for decode, by_xdrlib in DECODERS.values():
            assert outcome(decode, frame.payload) == outcome(by_xdrlib, Unpacker(frame.payload))
