"""The error replies for the errors of the lock table and the engines, with libvirt's error codes."""

from lockd.locks.errors import (
    Busy,
    DirectLockspaceExists,
    InvalidName,
    LockError,
    LockspaceExists,
    NotADirectory,
    NotHeld,
    NotOwner,
    SystemCallFailed,
    TooManyHoldings,
    UnknownLockspace,
)
from lockd.wire.errors import (
    ErrorDomain,
    ErrorReply,
    internal_error,
    invalid_argument,
    operation_invalid,
    resource_busy,
    signed,
    system_error,
)


def lock_error_reply(error: LockError, message: str | None = None) -> ErrorReply:
    """Return the error reply for an error.

    :param error: the error.
    :param message: the message of the reply; None for that of the error itself. For ``NotOwner`` the reply
        always has virtlockd's message.
    :returns: the reply.
    :raises TypeError: no reply is defined for errors of this class.
    """
    text = str(error) if message is None else message
    match error:
        case Busy() | NotHeld():
            return resource_busy(text)
        case SystemCallFailed(errno=number, creating_file=True):
            return system_error(text, number, ErrorDomain.NONE)
        case SystemCallFailed(errno=number):
            return system_error(text, number)
        case UnknownLockspace() | LockspaceExists():
            return internal_error(text)
        case NotADirectory():
            return internal_error(text, ErrorDomain.LOCKSPACE)
        case NotOwner(number=number):
            # A pid is unsigned in the protocol, but virtlockd prints it as a signed number.
            return internal_error(
                f"owner {signed(number)} does not hold the resource lock", ErrorDomain.LOCKSPACE
            )
        case DirectLockspaceExists() | TooManyHoldings():
            return operation_invalid(text)
        case InvalidName():
            return invalid_argument(text, ErrorDomain.LOCKSPACE)
    raise TypeError(f"no reply reports {error!r}")
