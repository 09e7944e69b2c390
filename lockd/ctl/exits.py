"""The exit statuses of lockctl, and the exception that ends a command with one of them."""

from enum import IntEnum


class Exit(IntEnum):
    """An exit status. 64 to 78 are those of sysexits.h; 126 and 127 are those of a shell."""

    DONE = 0
    NO = 1
    """The answer is no, or a check found an error. lockctl itself worked."""
    USAGE = 2
    NO_DAEMON = 69
    FAILED = 74
    BUSY = 75
    NO_PERMISSION = 77
    NO_EXEC = 126
    """The command exists, and cannot be executed."""
    NO_COMMAND = 127
    """There is no such command."""


class Failure(Exception):
    """A command cannot continue.

    :param message: the one line that the user reads.
    :ivar status: the exit status.
    """

    def __init__(self, message: str, status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.status = status
