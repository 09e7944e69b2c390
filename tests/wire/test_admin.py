"""The admin program's arguments and results, compared with xdrlib3."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdrlib3 import Packer

from lockd.wire import admin
from lockd.wire.admin import Arguments, Client, Parameter, ParameterType
from lockd.wire.text import text
from lockd.wire.xdr import DecodeError
from tests.wire.strategies import int32, names, packed, uint32

uint64 = st.integers(0, 2**64 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
texts = names.map(text)
VALUES: dict[ParameterType, st.SearchStrategy[Any]] = {
    ParameterType.INT: int32,
    ParameterType.UINT: uint32,
    ParameterType.LLONG: int64,
    ParameterType.ULLONG: uint64,
    ParameterType.DOUBLE: st.floats(allow_nan=False),
    ParameterType.BOOLEAN: st.sampled_from([0, 1]),
    ParameterType.STRING: texts,
}
parameters = st.sampled_from(ParameterType).flatmap(
    lambda kind: st.builds(Parameter, texts, st.just(kind), VALUES[kind])
)
clients = st.builds(Client, texts, uint64, int64, uint32)


def by_xdrlib(parameters: list[Parameter]) -> bytes:
    packer = Packer()
    pack = {
        ParameterType.INT: packer.pack_int,
        ParameterType.UINT: packer.pack_uint,
        ParameterType.LLONG: packer.pack_hyper,
        ParameterType.ULLONG: packer.pack_uhyper,
        ParameterType.DOUBLE: packer.pack_double,
        ParameterType.BOOLEAN: packer.pack_int,
        ParameterType.STRING: lambda value: packer.pack_string(value.encode(errors="surrogateescape")),
    }
    packer.pack_uint(len(parameters))
    for name, kind, value in parameters:
        packer.pack_string(name.encode(errors="surrogateescape"))
        packer.pack_int(kind)
        pack[kind](value)
    return bytes(packer.get_buffer())


@given(st.lists(parameters, max_size=6))
def test_typed_parameters_are_what_xdrlib_writes(sent: list[Parameter]) -> None:
    payload = admin.encode_parameters(sent)
    assert payload == by_xdrlib(sent)
    assert Arguments(payload).parameters() == sent


@given(st.lists(parameters, min_size=1, max_size=3), st.data())
def test_typed_parameters_that_are_cut_off_are_refused(sent: list[Parameter], data: st.DataObject) -> None:
    payload = admin.encode_parameters(sent)
    with pytest.raises(DecodeError):
        Arguments(payload[: data.draw(st.integers(0, len(payload) - 1))]).parameters()


def test_the_bounds_of_typed_parameters_are_kept() -> None:
    one = packed("si", b"name", ParameterType.INT) + packed("i", -1)
    most = packed("u", admin.PARAMETERS_MAX) + one * admin.PARAMETERS_MAX
    assert len(Arguments(most).parameters()) == admin.PARAMETERS_MAX
    with pytest.raises(DecodeError, match="33 items, 32 are possible"):
        Arguments(packed("u", 33) + one * 33).parameters()
    for kind in (0, 8, -1):
        with pytest.raises(DecodeError, match=f"a parameter of type {kind}"):
            Arguments(packed("usi", 1, b"name", kind) + bytes(8)).parameters()


@given(clients)
def test_a_client_is_what_xdrlib_writes(client: Client) -> None:
    payload = admin.encode_client(client)
    assert payload == by_hand(client)
    assert Arguments(payload).client() == client


@given(st.lists(clients, max_size=3), st.lists(texts, max_size=3), uint32)
def test_lists_carry_a_number(listed: list[Client], servers: list[str], count: int) -> None:
    """The number need not be that of the items: a caller may ask for the number alone."""
    expected = packed("u", len(listed)) + b"".join(map(by_hand, listed)) + packed("u", count)
    assert admin.encode_clients(listed, count) == expected
    expected = packed("u", len(servers)) + b"".join(map(admin.encode_server, servers)) + packed("u", count)
    assert admin.encode_servers(servers, count) == expected


def by_hand(client: Client) -> bytes:
    packer = Packer()
    packer.pack_string(client.server.encode(errors="surrogateescape"))
    packer.pack_uhyper(client.id)
    packer.pack_hyper(client.timestamp)
    packer.pack_uint(client.transport)
    return bytes(packer.get_buffer())


@given(names, uint32)
def test_the_logs_settings_are_what_xdrlib_writes(setting: bytes, count: int) -> None:
    assert admin.encode_outputs(text(setting), count) == packed("su", setting, count)
    assert admin.encode_filters(text(setting), count) == packed("ou", setting, count)
    assert admin.encode_filters(None, count) == packed("ou", None, count)
    assert admin.encode_server(text(setting)) == packed("s", setting)


@given(names, uint32.filter(bool))
def test_an_absent_setting_is_an_empty_one(setting: bytes, there: int) -> None:
    """libvirt accepts any number except 0 as the mark that the setting is present."""
    assert Arguments(packed("us", there, setting)).text() == text(setting)
    assert Arguments(packed("u", 0)).text() == ""


def test_the_version_is_one_number() -> None:
    assert admin.encode_version(9, 0, 12) == (9_000_012).to_bytes(8, "big")
