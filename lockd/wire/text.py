"""Text: the names that the wire carries as bytes, as Python has the names of files."""

import sys
from typing import Final

_FILE_NAMES: Final = sys.getfilesystemencoding()


def text(raw: bytes) -> str:
    """Return the text of ``raw``, as Python decodes the names of files: any bytes survive.

    Where the locale is not UTF-8, a path decoded in another way would name another file.
    """
    try:
        # Most names are ASCII, which all locales have in common and which takes the fewest steps.
        return raw.decode("ascii")
    except UnicodeDecodeError:
        return raw.decode(_FILE_NAMES, "surrogateescape")


def raw(string: str) -> bytes:
    """Return the bytes of a text that ``text`` made."""
    return string.encode(_FILE_NAMES, "surrogateescape")
