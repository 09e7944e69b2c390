"""What the wire says of what the lock table refused: libvirt's error for each of its errors."""

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
    """Return the reply that reports ``error``.

    :param message: says it better than the error itself.
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
        case NotOwner(pid=pid):
            # The protocol sends a pid unsigned, and virtlockd prints it signed.
            return internal_error(
                f"owner {signed(pid)} does not hold the resource lock", ErrorDomain.LOCKSPACE
            )
        case DirectLockspaceExists():
            return operation_invalid(text)
        case InvalidName():
            return invalid_argument(text, ErrorDomain.LOCKSPACE)
    raise TypeError(f"no reply reports {error!r}")
