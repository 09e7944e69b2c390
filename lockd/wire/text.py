"""Conversion between the bytes of a name on the wire and the text of that name in Python."""

import sys
from typing import Final

_FILE_NAMES: Final = sys.getfilesystemencoding()


def text(raw: bytes) -> str:
    """Decode a name, in the same way as Python decodes file names.

    Any bytes can be decoded, and ``raw`` restores them. In a locale other than UTF-8, a path that was decoded
    in another way would name another file.

    :param raw: the bytes.
    :returns: the text.
    """
    try:
        # Most names are ASCII. It is the same in all locales, and the fastest to decode.
        return raw.decode("ascii")
    except UnicodeDecodeError:
        return raw.decode(_FILE_NAMES, "surrogateescape")


def raw(string: str) -> bytes:
    """Encode a name that ``text`` decoded.

    :param string: the text.
    :returns: the bytes.
    """
    return string.encode(_FILE_NAMES, "surrogateescape")
