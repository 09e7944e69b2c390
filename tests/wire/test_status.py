"""The status program's documents."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockd.wire import status
from lockd.wire.text import text
from lockd.wire.xdr import DecodeError
from tests.wire.strategies import names, packed

# Paths and names in documents may contain any bytes.
texts = st.text(max_size=10) | names.map(text)
scalars = st.none() | st.booleans() | st.integers() | texts
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(texts, scalars, max_size=3)
documents = st.dictionaries(texts, values, max_size=4)


@given(documents)
def test_a_document_is_json_in_one_string(document: dict[str, Any]) -> None:
    payload = status.encode_document(document)
    size = int.from_bytes(payload[:4], "big")
    carried = payload[4 : 4 + size]
    assert json.loads(text(carried)) == document
    assert payload == packed("s", carried)
    assert status.decode_document(payload) == document


@given(names)
def test_a_name_is_carried_by_its_own_bytes(name: bytes) -> None:
    """A client in another locale has other characters for them."""
    escapes = {byte: f"\\u{byte:04x}".encode() for byte in range(32)}
    escapes |= {ord("\b"): rb"\b", ord("\t"): rb"\t", ord("\n"): rb"\n", ord("\f"): rb"\f", ord("\r"): rb"\r"}
    escapes |= {ord('"'): rb"\"", ord("\\"): rb"\\"}
    carried = b"".join(escapes.get(byte, bytes([byte])) for byte in name)
    assert status.encode_document({"name": text(name)}) == packed("s", b'{"name":"' + carried + b'"}')


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: packed("s", data)))
def test_an_invalid_document_is_refused_with_a_value_error(payload: bytes) -> None:
    try:
        document = status.decode_document(payload)
    except ValueError:
        return
    assert isinstance(document, dict)


@pytest.mark.parametrize("value", ["[]", "1", "null", '"text"', '["a", {}]'])
def test_a_document_is_an_object(value: str) -> None:
    with pytest.raises(ValueError, match="object"):
        status.decode_document(packed("s", value.encode()))


def test_a_document_that_is_nested_too_deep_is_refused() -> None:
    """Python's JSON parser is recursive, and a peer decides how deep it goes."""
    with pytest.raises(ValueError, match="nested"):
        status.decode_document(packed("s", b'{"a":' + b"[" * 100_000))


def test_a_document_is_bounded() -> None:
    with pytest.raises(DecodeError, match="are possible"):
        status.decode_document(packed("u", status.DOCUMENT_MAX + 1) + bytes(8))


@given(st.characters(categories=["Cs"]), st.text(max_size=3))
def test_a_document_with_text_that_no_bytes_decode_to_is_refused(surrogate: str, rest: str) -> None:
    """Text that could not be sent on, or logged, is not let in. A lone surrogate for a single byte is a name."""
    document = {"list": [{"name": surrogate + rest}]}
    payload = packed("s", json.dumps(document).encode())
    if "\udc80" <= surrogate <= "\udcff":
        assert status.decode_document(payload) == document
    else:
        with pytest.raises(UnicodeEncodeError):
            status.decode_document(payload)
