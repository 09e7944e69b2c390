"""Text output: its width on a terminal, control characters, colours, and tables that fit the terminal."""

import os
import sys
from io import TextIOWrapper
from typing import Final, TextIO

from lockd.linux.printable import printable

_GAP: Final = " "
_BOLD_RED: Final = "\x1b[1;31m"
_PLAIN: Final = "\x1b[0m"


def escape_unencodable(stream: TextIO, encoding: str | None = None) -> None:
    r"""Have characters escaped, such as ``\xe9``, if the encoding of a stream lacks them. Otherwise they are an error.

    :param stream: standard output or standard error.
    :param encoding: the encoding to use from now on; None for that of the locale.
    """
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding=encoding, errors="backslashreplace")


def has_colour(stream: TextIO) -> bool:
    """Return whether to use colours.

    Colours are for terminals only, and not if NO_COLOR is set (no-color.org) or TERM is ``dumb``.

    :param stream: the stream.
    :returns: whether to use colours.
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def size(stream: TextIO) -> tuple[int, int]:
    """Return the size of a terminal.

    :param stream: the terminal.
    :returns: the numbers of columns and lines; 80 and 24 if they are not known.
    """
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except OSError:
        columns, lines = 80, 24
    return columns or 80, lines or 24


def alarming(text: str) -> str:
    """Return a text in bold red.

    :param text: the text.
    :returns: the text with escape sequences.
    """
    return f"{_BOLD_RED}{text}{_PLAIN}"


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes.

    :param text: printable text.
    :returns: the number of columns.
    """
    if text.isascii():
        return len(text)
    # Imported here because most names are ASCII, and importing it takes time.
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(character) else 2 if east_asian_width(character) in "FW" else 1 for character in text
    )


def ellipsis(stream: TextIO) -> str:
    """Return the mark for text that was cut.

    :param stream: the stream that it is written to.
    :returns: an ellipsis, or three dots if the encoding of the stream has none.
    """
    try:
        "…".encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return "..."
    return "…"


def fitting(text: str, limit: int, mark: str, *, cut_start: bool) -> str:
    """Cut a text that is too wide.

    :param text: the text.
    :param limit: the largest width, in columns.
    :param mark: the mark for text that was cut.
    :param cut_start: whether to cut the beginning, as paths differ at their ends, and not the end.
    :returns: the text, cut if it is too wide.
    """
    if width(text) <= limit:
        return text
    kept = text
    while kept and width(mark) + width(kept) > limit:
        kept = kept[1:] if cut_start else kept[:-1]
    if not kept:
        return text[:limit]
    return mark + kept if cut_start else kept + mark


class Table:
    """A table with headings.

    :param headings: the headings.
    :param right: the headings of the columns that are aligned to the right.
    :param yielding: the headings of the columns that may be cut, in the order in which they are cut, and the
        smallest width of each.
    :param paths: the headings of the columns whose cells are cut at the beginning. Others are cut at the end.
    """

    def __init__(
        self, headings: list[str], right: set[str], yielding: dict[str, int], paths: set[str]
    ) -> None:
        self._headings = headings
        self._right = right
        self._yielding = yielding
        self._paths = paths

    def lines(self, rows: list[list[str]], limit: int | None, mark: str, *, headings: bool) -> list[str]:
        """Return the lines of the table.

        :param rows: the cells of each row, as printable text.
        :param limit: the largest width of a line, in columns, which is kept as far as cells may be cut; None
            for no limit.
        :param mark: the mark for text that was cut.
        :param headings: whether the first line has the headings.
        :returns: the lines.
        """
        every = [self._headings, *rows] if headings else rows
        widths = [
            max((width(row[number]) for row in every), default=0) for number in range(len(self._headings))
        ]
        if limit is not None:
            self._narrow(widths, limit)
        return [self._line(row, widths, mark) for row in every]

    def _narrow(self, widths: list[int], limit: int) -> None:
        for heading, kept in self._yielding.items():
            excess = sum(widths) + len(_GAP) * (len(widths) - 1) - limit
            if excess > 0 and heading in self._headings:
                number = self._headings.index(heading)
                widths[number] = min(widths[number], max(widths[number] - excess, kept))

    def _line(self, row: list[str], widths: list[int], mark: str) -> str:
        cells = []
        for heading, text, limit in zip(self._headings, row, widths, strict=True):
            cell = fitting(text, limit, mark, cut_start=heading in self._paths and text != heading)
            blanks = " " * (limit - width(cell))
            cells.append(blanks + cell if heading in self._right else cell + blanks)
        return _GAP.join(cells).rstrip()


def print_error(message: str) -> None:
    """Print an error message to standard error, in one line.

    :param message: the message.
    """
    print(f"lockctl: {printable(message)}", file=sys.stderr)


def print_json(facts: object) -> None:
    """Print facts as JSON.

    :param facts: the facts, as ``json.dumps`` takes them.
    """
    # Imported here because only JSON output needs it, and importing it takes time.
    import json

    print(json.dumps(facts, indent=3))
