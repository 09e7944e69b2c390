"""Text for terminals and pipes: how wide it is, what must not reach a terminal, and tables that fit."""

import os
import sys
from typing import Final, TextIO

_GAP: Final = " "
_BOLD_RED: Final = "\x1b[1;31m"
_PLAIN: Final = "\x1b[0m"


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at it, rather than a program."""
    return stream.isatty()


def has_colour(stream: TextIO) -> bool:
    """Whether colours are welcome (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def size(stream: TextIO) -> tuple[int, int]:
    """Return columns and lines of a terminal."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except OSError:
        columns, lines = 80, 24
    return columns or 80, lines or 24


def alarming(text: str) -> str:
    """Return a line so that it is seen first."""
    return f"{_BOLD_RED}{text}{_PLAIN}"


def printable(text: str) -> str:
    """Return text without what a terminal would obey; names of guests and files may hold anything."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    data = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in data)


def width(text: str) -> int:
    """Return how many columns of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    # Imported late: names are ASCII as a rule.
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(character) else 2 if east_asian_width(character) in "FW" else 1 for character in text
    )


def ellipsis(stream: TextIO) -> str:
    """Return what stands for text that was left out."""
    try:
        "…".encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return "..."
    return "…"


def without_start(text: str, limit: int, mark: str) -> str:
    """Return the end of a text, at most ``limit`` columns: what tells one path from another."""
    if width(text) <= limit:
        return text
    kept = text
    while kept and width(mark) + width(kept) > limit:
        kept = kept[1:]
    return mark + kept if kept else text[:limit]


def without_end(text: str, limit: int, mark: str) -> str:
    """Return the beginning of a text, at most ``limit`` columns."""
    if width(text) <= limit:
        return text
    kept = text
    while kept and width(mark) + width(kept) > limit:
        kept = kept[:-1]
    return kept + mark if kept else text[:limit]


class Table:
    """Rows under headings.

    :param right: the headings whose cells stand at the right.
    :param yielding: the headings whose cells may be cut, the first one first, and the columns that they keep;
        those of paths lose their beginning.
    """

    def __init__(
        self, headings: list[str], right: set[str], yielding: dict[str, int], paths: set[str]
    ) -> None:
        self._headings = headings
        self._right = right
        self._yielding = yielding
        self._paths = paths

    def lines(self, rows: list[list[str]], limit: int | None, mark: str, *, headings: bool) -> list[str]:
        """Return the lines of the table, none wider than ``limit``, as far as cells may be cut."""
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
            cut = without_start if heading in self._paths and text != heading else without_end
            cell = cut(text, limit, mark)
            blanks = " " * (limit - width(cell))
            cells.append(blanks + cell if heading in self._right else cell + blanks)
        return _GAP.join(cells).rstrip()


def print_error(message: str) -> None:
    """Tell the user of a failure, in one line."""
    print(f"lockctl: {printable(message)}", file=sys.stderr)
