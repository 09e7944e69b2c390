"""Error replies: libvirt's numbers for errors, and the payload of a reply that carries an error."""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from lockd.wire.xdr import DecodeError, Decoder, encode_optional_text

_PAIR = Struct(">2i")
_LEVEL_WITHOUT_OBJECT = _PAIR.pack(2, 0)
"""The level VIR_ERR_ERROR, and the mark for "no domain object"."""

_WITHOUT_NETWORK = Struct(">i").pack(0)
_STRING_MAX = 4194304


class ErrorCode(IntEnum):
    """Kinds of errors, by libvirt's numbers (virErrorNumber)."""

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
    """Parts of libvirt that report errors, by libvirt's numbers (virErrorDomain)."""

    NONE = 0
    RPC = 7
    LOCKSPACE = 51
    ADMIN = 62


@dataclass(frozen=True)
class ErrorReply:
    """The content of an ERROR reply.

    :ivar code: the kind of error; one of ``ErrorCode``, if it is known.
    :ivar domain: the part of libvirt that reports it; one of ``ErrorDomain``, if it is known.
    :ivar message: the text for the user; None if there is none.
    :ivar str1: the format of the message, if libvirt builds it from a format and a text; for unknown flags,
        the name of virtlockd's function.
    :ivar str2: the text that is put into the format; for unknown flags, "flags".
    :ivar str3: a further text; the lock and admin programs do not use it.
    :ivar int1: the errno of a failed system call; 0 for unknown flags; otherwise -1.
    :ivar int2: a further number; the lock and admin programs do not use it.
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
        """Return the payload of the reply.

        This never fails: an error that cannot be reported would be a second error, in the place of the first.
        """
        return b"".join(
            (
                _PAIR.pack(self.code, self.domain),
                encode_optional_text(self.message),
                _LEVEL_WITHOUT_OBJECT,
                encode_optional_text(self.str1),
                encode_optional_text(self.str2),
                encode_optional_text(self.str3),
                _PAIR.pack(self.int1, self.int2),
                _WITHOUT_NETWORK,
            )
        )

    @classmethod
    def decode(cls, payload: bytes) -> "ErrorReply":
        """Decode the payload of an ERROR reply.

        :param payload: the payload.
        :returns: the content of the reply.
        :raises DecodeError: the payload is not an error of the lock or admin program.
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
    """Return libvirt's "internal error". libvirt also uses it for unknown names.

    :param detail: the text after libvirt's fixed words.
    :param domain: the part of libvirt that the error is reported for.
    :returns: the error.
    """
    return _formatted(ErrorCode.INTERNAL_ERROR, domain, "internal error: %s", detail)


def invalid_argument(detail: str, domain: ErrorDomain = ErrorDomain.RPC) -> ErrorReply:
    """Return the error for an argument that is not valid.

    :param detail: the text after libvirt's fixed words.
    :param domain: the part of libvirt that the error is reported for.
    :returns: the error.
    """
    return _formatted(ErrorCode.INVALID_ARG, domain, "invalid argument: %s", detail)


def operation_invalid(detail: str) -> ErrorReply:
    """Return the error for a call that is not possible in the present state.

    :param detail: the text after libvirt's fixed words.
    :returns: the error.
    """
    return _formatted(
        ErrorCode.OPERATION_INVALID, ErrorDomain.RPC, "Requested operation is not valid: %s", detail
    )


def operation_denied(detail: str) -> ErrorReply:
    """Return the error for a call that this connection may not make.

    :param detail: the text after libvirt's fixed words.
    :returns: the error.
    """
    return _formatted(ErrorCode.OPERATION_DENIED, ErrorDomain.RPC, "operation forbidden: %s", detail)


def resource_busy(detail: str) -> ErrorReply:
    """Return the error for a lock that cannot be taken or released now.

    :param detail: the text after libvirt's fixed words.
    :returns: the error.
    """
    return _formatted(ErrorCode.RESOURCE_BUSY, ErrorDomain.LOCKSPACE, "resource busy: %s", detail)


def system_error(detail: str, errno: int, domain: ErrorDomain = ErrorDomain.LOCKSPACE) -> ErrorReply:
    """Return the error for a system call that failed.

    :param detail: the message.
    :param errno: the errno of the system call.
    :param domain: the part of libvirt that the error is reported for.
    :returns: the error.
    """
    return ErrorReply(ErrorCode.SYSTEM_ERROR, domain, detail, str1="%s", str2=detail, int1=errno)


def unsupported_argument(detail: str) -> ErrorReply:
    """Return the error for an argument with a value that is not supported.

    :param detail: the text after libvirt's fixed words.
    :returns: the error.
    """
    return _formatted(ErrorCode.ARGUMENT_UNSUPPORTED, ErrorDomain.NONE, "argument unsupported: %s", detail)


def no_server(detail: str, domain: ErrorDomain) -> ErrorReply:
    """Return the error for a server that the daemon does not have.

    :param detail: the text after libvirt's fixed words.
    :param domain: the part of libvirt that the error is reported for.
    :returns: the error.
    """
    return _formatted(ErrorCode.NO_SERVER, domain, "Server not found: %s", detail)


def no_client(detail: str, domain: ErrorDomain) -> ErrorReply:
    """Return the error for a client that is not connected.

    :param detail: the text after libvirt's fixed words.
    :param domain: the part of libvirt that the error is reported for.
    :returns: the error.
    """
    return _formatted(ErrorCode.NO_CLIENT, domain, "Client not found: %s", detail)


def unsupported_flags(flags: int, function: str, domain: ErrorDomain = ErrorDomain.RPC) -> ErrorReply:
    """Return the error for flags that a function does not know.

    :param flags: the unknown bits.
    :param function: the name of virtlockd's function that refuses them.
    :param domain: the part of libvirt that the error is reported for.
    :returns: the error.
    """
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
    """Return an error of the RPC layer, for example for a call of an unknown program.

    :param message: the message.
    :returns: the error.
    """
    return ErrorReply(ErrorCode.RPC, ErrorDomain.RPC, message, str1="%s", str2=message)


def signed(number: int) -> int:
    """Return an unsigned 32-bit number as virtlockd prints it: as a signed one, because its messages use %d.

    :param number: the number.
    :returns: the signed number with the same 32 bits.
    """
    return number - 2**32 if number >= 2**31 else number
