"""Error replies: their encoding, and libvirt's error codes and texts."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockd.wire.errors import (
    ErrorDomain,
    ErrorReply,
    internal_error,
    invalid_argument,
    no_client,
    no_server,
    operation_denied,
    operation_invalid,
    resource_busy,
    rpc_error,
    signed,
    system_error,
    unsupported_argument,
    unsupported_flags,
)
from lockd.wire.text import text
from lockd.wire.xdr import DecodeError
from tests.wire.strategies import int32, names, packed

optional_names = names | st.none()


@given(int32, int32, optional_names, optional_names, optional_names, optional_names, int32, int32)
def test_an_error_reply_is_what_xdrlib_writes(
    code: int,
    domain: int,
    message: bytes | None,
    str1: bytes | None,
    str2: bytes | None,
    str3: bytes | None,
    int1: int,
    int2: int,
) -> None:
    texts = [None if string is None else text(string) for string in (message, str1, str2, str3)]
    reply = ErrorReply(code, domain, texts[0], texts[1], texts[2], texts[3], int1, int2)
    payload = packed("iioibooo", code, domain, message, 2, False, str1, str2, str3)
    payload += packed("iib", int1, int2, False)
    assert reply.encode() == payload
    assert ErrorReply.decode(payload) == reply


@given(st.integers(0, 80))
def test_a_truncated_error_reply_is_refused(end: int) -> None:
    payload = internal_error("it is broken").encode()
    # The last word of the reply says that no network object follows. It is not decoded.
    with pytest.raises(DecodeError):
        ErrorReply.decode(payload[: min(end, len(payload) - 5)])


def test_an_error_reply_with_a_domain_is_refused() -> None:
    """libvirt may put a domain object into an error, but the lock and admin programs never do."""
    payload = packed("iioib", 1, 7, b"message", 2, True) + packed("sfi", b"", bytes(16), 1)
    with pytest.raises(DecodeError, match="domain"):
        ErrorReply.decode(payload + packed("oooiib", None, None, None, -1, -1, False))


# Recorded from the virtlockd of libvirt 9.0.0: code, domain, message, str1, str2, int1, int2.
MEASURED = [
    (
        operation_invalid("lock owner details have not been registered"),
        (55, 7, "Requested operation is not valid: lock owner details have not been registered"),
        ("Requested operation is not valid: %s", "lock owner details have not been registered", -1, -1),
    ),
    (
        operation_denied("lock manager connection has been restricted"),
        (29, 7, "operation forbidden: lock manager connection has been restricted"),
        ("operation forbidden: %s", "lock manager connection has been restricted", -1, -1),
    ),
    (
        unsupported_flags(8, "virLockSpaceProtocolDispatchAcquireResource"),
        (8, 7, "unsupported flags (0x8) in function virLockSpaceProtocolDispatchAcquireResource"),
        ("virLockSpaceProtocolDispatchAcquireResource", "flags", 0, 0),
    ),
    (
        internal_error("Lockspace for path /leases does not exist"),
        (1, 7, "internal error: Lockspace for path /leases does not exist"),
        ("internal error: %s", "Lockspace for path /leases does not exist", -1, -1),
    ),
    (
        internal_error("owner PID does not hold the resource lock", ErrorDomain.LOCKSPACE),
        (1, 51, "internal error: owner PID does not hold the resource lock"),
        ("internal error: %s", "owner PID does not hold the resource lock", -1, -1),
    ),
    (
        resource_busy("Lockspace resource '/disk' is locked"),
        (87, 51, "resource busy: Lockspace resource '/disk' is locked"),
        ("resource busy: %s", "Lockspace resource '/disk' is locked", -1, -1),
    ),
    (
        system_error(f"Unable to open resource /disk: {os.strerror(errno.ENOENT)}", errno.ENOENT),
        (38, 51, "Unable to open resource /disk: No such file or directory"),
        ("%s", "Unable to open resource /disk: No such file or directory", errno.ENOENT, -1),
    ),
    (
        rpc_error("unknown procedure: 9"),
        (39, 7, "unknown procedure: 9"),
        ("%s", "unknown procedure: 9", -1, -1),
    ),
    (
        no_server("no server named 'x'", ErrorDomain.RPC),
        (95, 7, "Server not found: no server named 'x'"),
        ("Server not found: %s", "no server named 'x'", -1, -1),
    ),
    (
        no_client("no client with id 9", ErrorDomain.RPC),
        (96, 7, "Client not found: no client with id 9"),
        ("Client not found: %s", "no client with id 9", -1, -1),
    ),
    (
        unsupported_argument("no such thing"),
        (74, 0, "argument unsupported: no such thing"),
        ("argument unsupported: %s", "no such thing", -1, -1),
    ),
    (
        invalid_argument("resource 'disk' is not an absolute path", ErrorDomain.LOCKSPACE),
        (8, 51, "invalid argument: resource 'disk' is not an absolute path"),
        ("invalid argument: %s", "resource 'disk' is not an absolute path", -1, -1),
    ),
]


@pytest.mark.parametrize(
    ("reply", "what", "details"), MEASURED, ids=lambda value: getattr(value, "message", "")
)
def test_errors_have_libvirts_numbers_and_words(
    reply: ErrorReply, what: tuple[int, int, str], details: tuple[str, str, int, int]
) -> None:
    assert (reply.code, reply.domain, reply.message) == what
    assert (reply.str1, reply.str2, reply.int1, reply.int2) == details
    assert reply.str3 is None


@given(int32)
def test_signed_shows_numbers_as_virtlockd_prints_them(number: int) -> None:
    assert signed(number % 2**32) == number


@given(st.text(st.characters(), max_size=5) | st.text(st.characters(categories=["Cs"]), max_size=5))
def test_an_error_can_be_encoded_whatever_its_text_is(words: str) -> None:
    """A reply that cannot be encoded would be a second error in the place of the first."""
    decoded = ErrorReply.decode(resource_busy(words).encode())
    assert decoded.message is not None
    assert decoded.message.startswith("resource busy: ")


def test_what_cannot_be_encoded_in_an_error_is_escaped() -> None:
    assert ErrorReply.decode(internal_error("a\ud800\udcff\n").encode()).str2 == "a\\ud800\udcff\n"
