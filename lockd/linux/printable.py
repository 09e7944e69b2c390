r"""Text that a terminal shows and does not obey.

Peers choose the names of guests and files. Such a name may have control characters (``\x1b`` begins a command to the
terminal, console_codes(4); so does ``\x9b``, its 8-bit form), line breaks of several kinds, and marks that change the
direction of all text behind them (Unicode Standard Annex 9). None of them is printable (``str.isprintable``).
"""


def printable(text: str) -> str:
    r"""Escape all characters that are not printable.

    :param text: the text.
    :returns: the text in one line, which any Unicode encoding can encode. Each character that is not printable is
        replaced by its bytes in UTF-8, such as ``\x1b``.
    """
    if text.isprintable():
        return text
    # A name of 64 KiB has few different characters.
    return text.translate(
        {ord(character): _escaped(character) for character in set(text) if not character.isprintable()}
    )


def _escaped(character: str) -> str:
    try:
        data = character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half of a surrogate pair, as JSON can carry it. No encoding has bytes for it.
        data = character.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)
