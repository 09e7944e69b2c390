"""What a client can meet: a daemon that is not there, or one that refuses.

virtlockd tells most refusals apart only by their text, so its text is looked at too; lockd says the same.
"""

import re
from typing import Final

from lockd.wire.errors import ErrorCode, ErrorReply

_HOLDER: Final = re.compile(r"is locked (?:being acquired )?by (?P<holder>.+)", re.DOTALL)


class ClientError(Exception):
    """A call did not succeed; the message is one line for the user."""


class Unavailable(ClientError):
    """No daemon listens where it should."""


class PermissionDenied(ClientError):
    """The daemon belongs to another user."""


class ConnectionLost(ClientError):
    """The daemon has closed the connection, or does not answer in time."""


class ConfigError(ClientError):
    """A configuration file cannot be read, or something is wrong in it; says the file and the line."""


class Refused(ClientError):
    """The daemon has answered with an error.

    :ivar reply: all of the answer.
    """

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message or f"error {reply.code} without a message")
        self.reply = reply


class Busy(Refused):
    """Somebody holds the resource.

    :ivar holder: who that is, as far as the daemon knows; None where it does not say, as virtlockd never does.
    """

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply)
        named = _HOLDER.search(reply.message or "")
        self.holder: str | None = named["holder"] if named else None


class NotHeld(Refused):
    """Release of a resource that nobody holds."""


class NotOwner(Refused):
    """Release of a resource that others hold."""


class NotRegistered(Refused):
    """The connection has no owner yet."""


class Restricted(Refused):
    """The connection has given up all further calls."""


class UnknownLockspace(Refused):
    """Nobody has made the lockspace."""


class LockspaceExists(Refused):
    """NEW of a lockspace that is known."""


class NotADirectory(Refused):
    """The path of a lockspace is that of something else."""


class InvalidArgument(Refused):
    """A name or a flag that cannot be meant."""


class SystemCallFailed(Refused):
    """The operating system refused.

    :ivar errno: why.
    """

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply)
        self.errno = reply.int1


class UnknownProgram(Refused):
    """The daemon does not know the program: it is not lockd, or an older one."""


def refusal(reply: ErrorReply) -> Refused:
    """Return the exception for an error reply; plain Refused where it is none of the known ones."""
    text = reply.message or ""
    for code, words, kind in _KINDS:
        if reply.code == code and words in text:
            return kind(reply)
    return Refused(reply)


_KINDS: Final[list[tuple[int, str, type[Refused]]]] = [
    (ErrorCode.RESOURCE_BUSY, "is not locked", NotHeld),
    (ErrorCode.RESOURCE_BUSY, "", Busy),
    (ErrorCode.OPERATION_DENIED, "", Restricted),
    (ErrorCode.OPERATION_INVALID, "have not been registered", NotRegistered),
    (ErrorCode.OPERATION_INVALID, "already exists", LockspaceExists),
    (ErrorCode.SYSTEM_ERROR, "", SystemCallFailed),
    (ErrorCode.INVALID_ARG, "", InvalidArgument),
    (ErrorCode.INTERNAL_ERROR, "owner PID does not hold", NotOwner),
    (ErrorCode.INTERNAL_ERROR, "does not hold the resource lock", NotOwner),
    (ErrorCode.INTERNAL_ERROR, "is not a directory", NotADirectory),
    (ErrorCode.INTERNAL_ERROR, "does not exist", UnknownLockspace),
    (ErrorCode.INTERNAL_ERROR, "already exists", LockspaceExists),
    (ErrorCode.RPC, "Cannot find program", UnknownProgram),
]
"""Code, a part of the message, and what is meant; the first that fits counts."""
