"""An error for the administrator: the daemon cannot start, or cannot do what it was told to do."""


class Failure(Exception):
    """An error whose text is one line: what it is about, what went wrong, and what to do if that is known."""
