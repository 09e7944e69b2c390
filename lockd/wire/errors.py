"""Error replies: libvirt's numbers for what went wrong, and the payload that carries them."""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from lockd.wire.xdr import DecodeError, Decoder, encode_optional_string

_PAIR = Struct(">2i")
_LEVEL_WITHOUT_OBJECT = _PAIR.pack(2, 0)
"""VIR_ERR_ERROR, and no domain object."""

_WITHOUT_NETWORK = Struct(">i").pack(0)
_STRING_MAX = 4194304


class ErrorCode(IntEnum):
    """Kinds of errors, as libvirt numbers them (virErrorNumber)."""

    INTERNAL_ERROR = 1
    INVALID_ARG = 8
    OPERATION_DENIED = 29
    SYSTEM_ERROR = 38
    RPC = 39
    OPERATION_INVALID = 55
    ARGUMENT_UNSUPPORTED = 74
    RESOURCE_BUSY = 87
    NO_SERVER = 95
    NO_CLIENT = 96


class ErrorDomain(IntEnum):
    """Parts of libvirt that report errors (virErrorDomain)."""

    NONE = 0
    RPC = 7
    LOCKSPACE = 51
    ADMIN = 62


@dataclass(frozen=True)
class ErrorReply:
    """What an ERROR reply says.

    :ivar str1: the message's format, ``str2`` its text, where libvirt keeps them apart.
    :ivar int1: the errno of a system error, otherwise -1.
    """

    code: int
    domain: int
    message: str | None
    str1: str | None = None
    str2: str | None = None
    str3: str | None = None
    int1: int = -1
    int2: int = -1

    def encode(self) -> bytes:
        """Return the payload of the reply."""
        return b"".join(
            (
                _PAIR.pack(self.code, self.domain),
                encode_optional_string(self.message),
                _LEVEL_WITHOUT_OBJECT,
                encode_optional_string(self.str1),
                encode_optional_string(self.str2),
                encode_optional_string(self.str3),
                _PAIR.pack(self.int1, self.int2),
                _WITHOUT_NETWORK,
            )
        )

    @classmethod
    def decode(cls, payload: bytes) -> "ErrorReply":
        """Return what a reply's payload says.

        :raises DecodeError: it is no error reply of the lock or admin program.
        """
        decoder = Decoder(payload)
        code, domain = decoder.int32(), decoder.int32()
        message = decoder.optional_string(_STRING_MAX)
        decoder.int32()
        if decoder.boolean():
            raise DecodeError("the error is about a domain")
        str1, str2, str3 = (decoder.optional_string(_STRING_MAX) for _ in range(3))
        return cls(code, domain, message, str1, str2, str3, decoder.int32(), decoder.int32())


def _formatted(code: ErrorCode, domain: ErrorDomain, form: str, detail: str) -> ErrorReply:
    return ErrorReply(code, domain, form % detail, str1=form, str2=detail)


def internal_error(detail: str, domain: ErrorDomain = ErrorDomain.RPC) -> ErrorReply:
    """Return libvirt's "internal error", its word also for unknown names."""
    return _formatted(ErrorCode.INTERNAL_ERROR, domain, "internal error: %s", detail)


def invalid_argument(detail: str, domain: ErrorDomain = ErrorDomain.RPC) -> ErrorReply:
    """Return the error for an argument that cannot be meant."""
    return _formatted(ErrorCode.INVALID_ARG, domain, "invalid argument: %s", detail)


def operation_invalid(detail: str) -> ErrorReply:
    """Return the error for a call that comes at the wrong time."""
    return _formatted(
        ErrorCode.OPERATION_INVALID, ErrorDomain.RPC, "Requested operation is not valid: %s", detail
    )


def operation_denied(detail: str) -> ErrorReply:
    """Return the error for a call that this connection may not make."""
    return _formatted(ErrorCode.OPERATION_DENIED, ErrorDomain.RPC, "operation forbidden: %s", detail)


def resource_busy(detail: str) -> ErrorReply:
    """Return the error for a lock that cannot be had, or ended, now."""
    return _formatted(ErrorCode.RESOURCE_BUSY, ErrorDomain.LOCKSPACE, "resource busy: %s", detail)


def system_error(detail: str, errno: int, domain: ErrorDomain = ErrorDomain.LOCKSPACE) -> ErrorReply:
    """Return the error for a system call that failed with ``errno``."""
    return ErrorReply(ErrorCode.SYSTEM_ERROR, domain, detail, str1="%s", str2=detail, int1=errno)


def unsupported_argument(detail: str) -> ErrorReply:
    """Return the error for an argument that is not among the possible ones."""
    return _formatted(ErrorCode.ARGUMENT_UNSUPPORTED, ErrorDomain.NONE, "argument unsupported: %s", detail)


def no_server(detail: str, domain: ErrorDomain) -> ErrorReply:
    """Return the error for the name of a server that the daemon does not have."""
    return _formatted(ErrorCode.NO_SERVER, domain, "Server not found: %s", detail)


def no_client(detail: str, domain: ErrorDomain) -> ErrorReply:
    """Return the error for the number of a client that is not connected."""
    return _formatted(ErrorCode.NO_CLIENT, domain, "Client not found: %s", detail)


def unsupported_flags(flags: int, function: str, domain: ErrorDomain = ErrorDomain.RPC) -> ErrorReply:
    """Return the error for flag bits that ``function`` does not know."""
    return ErrorReply(
        ErrorCode.INVALID_ARG,
        domain,
        f"unsupported flags (0x{flags:x}) in function {function}",
        str1=function,
        str2="flags",
        int1=0,
        int2=0,
    )


def rpc_error(message: str) -> ErrorReply:
    """Return the error for a call that no program could take."""
    return ErrorReply(ErrorCode.RPC, ErrorDomain.RPC, message, str1="%s", str2=message)


def signed(number: int) -> int:
    """Return what virtlockd makes of an unsigned 32-bit number when it prints it: its messages say %d."""
    return number - 2**32 if number >= 2**31 else number
