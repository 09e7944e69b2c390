"""The exceptions of the client: the daemon cannot be reached, or it refuses a call.

Most refusals of virtlockd have the same code and differ only in their text. So the text is examined too;
lockd uses the same texts.
"""

import re
from typing import Final

from lockd.wire.errors import ErrorCode, ErrorReply

_HOLDER: Final = re.compile(r"is locked (?:being acquired )?by (?P<holder>.+)", re.DOTALL)


class ClientError(Exception):
    """A call did not succeed. The message is one line for the user."""


class Unavailable(ClientError):
    """No daemon listens on the socket."""


class PermissionDenied(ClientError):
    """The daemon belongs to another user: this user may not connect to its socket, or does not trust it."""


class ConnectionLost(ClientError):
    """The daemon has closed the connection, or it does not answer in time."""


class NoAnswer(ConnectionLost):
    """The daemon does not answer in time. It may still carry out the call, and answer later."""


class ConfigError(ClientError):
    """A configuration file cannot be read or is not valid. The message names the file and the line."""


class Refused(ClientError):
    """The daemon has answered with an error.

    :param reply: the answer.
    :ivar reply: see the parameter.
    """

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message or f"error {reply.code} without a message")
        self.reply = reply


class Busy(Refused):
    """Somebody else holds the resource.

    :param reply: the answer.
    :ivar holder: the holder, as far as the daemon knows it. None if the daemon does not name it; virtlockd
        never does.
    """

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply)
        named = _HOLDER.search(reply.message or "")
        self.holder: str | None = named["holder"] if named else None


class NotHeld(Refused):
    """A release of a resource that nobody holds."""


class NotOwner(Refused):
    """A release of a resource that only other owners hold."""


class NotRegistered(Refused):
    """The connection has no owner yet; ``register`` sets it."""


class Restricted(Refused):
    """The connection has given up all further calls."""


class UnknownLockspace(Refused):
    """The daemon does not know the lockspace."""


class LockspaceExists(Refused):
    """NEW of a lockspace that the daemon knows already."""


class NotADirectory(Refused):
    """The path of a lockspace belongs to something that is not a directory."""


class InvalidArgument(Refused):
    """A name or a flag is not valid."""


class SystemCallFailed(Refused):
    """A system call of the daemon failed.

    :param reply: the answer.
    :ivar errno: the errno of the system call (errno(3)).
    """

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply)
        self.errno = reply.int1


class UnknownProgram(Refused):
    """The daemon does not have the called program: it is virtlockd, or an older lockd."""


class UnknownProcedure(Refused):
    """The daemon does not have the called procedure: it is older."""


class IncompatibleDaemon(ClientError):
    """The daemon's answer lacks something: it is of another version."""


def refusal(reply: ErrorReply) -> Refused:
    """Return the exception for an error reply.

    :param reply: the reply.
    :returns: the exception; plain ``Refused`` if no subclass fits.
    """
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
    (ErrorCode.RPC, "unknown procedure", UnknownProcedure),
]
"""The code, a part of the message, and the exception. The first entry that matches a reply is used."""
