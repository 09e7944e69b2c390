"""How lockctl ends: exit statuses, and the errors that lead to them."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit statuses. 64 and above are those of sysexits.h."""

    DONE = 0
    NO = 1
    """The answer is no, or a check found an error. No failure ends with this."""
    USAGE = 2
    NO_DAEMON = 69
    FAILED = 74
    BUSY = 75
    NO_PERMISSION = 77
    NO_EXEC = 126
    NO_COMMAND = 127
    """As a shell says of a command that cannot be run, or is not there."""


class Failure(Exception):
    """A command cannot go on; the message is the one line that the user reads.

    :ivar status: the exit status.
    """

    def __init__(self, message: str, status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.status = status
