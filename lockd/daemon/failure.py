"""An error for the administrator: the daemon cannot start, or cannot do what it was told to do."""

import os


class Failure(Exception):
    """An error whose text is one line: what it is about, what went wrong, and what to do if that is known."""


def reason(error: BaseException | None) -> str | None:
    """Return in one line why the daemon cannot start, or ends.

    :param error: what has ended it. trio puts an exception into groups, or makes it the cause of its own.
    :returns: the line; None for a fault of the program, of which a traceback tells more.
    """
    match error:
        case Failure():
            return str(error)
        case BaseExceptionGroup():
            return reason(error.exceptions[0])
        case OSError():
            path = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
            return f"the daemon cannot run: {path}{error.strerror or error}"
        case MemoryError():
            return "the daemon cannot run: there is no memory left"
        case BaseException():
            return reason(error.__cause__)
    return None
