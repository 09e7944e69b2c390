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
    :raises UnicodeEncodeError: no bytes are decoded to this text. So it is not a name.
    """
    return string.encode(_FILE_NAMES, "surrogateescape")


def raw_or_escaped(string: str) -> bytes:
    r"""Encode a text that people read. This never fails, so that an error can always be reported.

    :param string: the text.
    :returns: the bytes. Each character that cannot be encoded is replaced by an escape, such as ``\ud800``.
    """
    try:
        return raw(string)
    except UnicodeEncodeError:
        return b"".join([_raw_or_escape(character) for character in string])


def _raw_or_escape(character: str) -> bytes:
    try:
        return raw(character)
    except UnicodeEncodeError:
        return character.encode("ascii", "backslashreplace")
