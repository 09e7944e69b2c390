"""The syntax of libvirt's configuration files: one ``key = value`` on each line.

A value is a number, a text in single or double quotes, or a list of numbers and texts in brackets. A list may
extend over several lines. A ``#`` begins a comment.
"""

import os
import re
import stat
from pathlib import Path
from typing import Final, TypeAlias

Value: TypeAlias = int | str | list[int | str]

_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
"""O_NONBLOCK: the file may be replaced by a FIFO just before it is opened, and opening that would wait (fifo(7))."""

_SIZE_MAX: Final = 10 * 1024 * 1024
_NULL_DEVICE: Final = os.makedev(1, 3)
"""/dev/null (Documentation/admin-guide/devices.txt of Linux): an empty configuration."""

_NUMBER_MAX: Final = 2**32 - 1
"""The largest number: the limits of libvirt's daemons are unsigned 32-bit numbers."""

_SPACE = re.compile(r"(?:[ \t\r]|#[^\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:\s|#[^\n]*)*")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NUMBER = re.compile(r"-?[0-9]+")
_TEXT = re.compile(r'"""(?P<long>.*?)"""|"(?P<double>[^"\n]*)"|\'(?P<single>[^\'\n]*)\'', re.DOTALL)


class ConfError(ValueError):
    """A file cannot be read, does not follow the syntax, or has a value of the wrong type.

    The message is one line for the user. It has the file and the line, if they are known, and the reason.

    :param message: the reason.
    :param line: the line, counted from 1; 0 if there is none.
    :param path: the file; None if it is not known.
    :ivar line: see the parameter.
    """

    def __init__(self, message: str, line: int, path: Path | None = None) -> None:
        place = f"{path}:{line}: " if path and line else f"{path}: " if path else ""
        super().__init__(f"{place}{message}")
        self.line = line


class Conf:
    """The settings of a configuration file. Unknown keys are not an error.

    :param values: for each key, its value and its line.
    :param path: the file, for error messages; None if the text is not from a file.
    """

    def __init__(self, values: dict[str, tuple[Value, int]], path: Path | None = None) -> None:
        self._values = values
        self._path = path

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def number(self, key: str, default: int, maximum: int = _NUMBER_MAX) -> int:
        """Return the value of a setting that is a number, 0 or more.

        :param key: the key.
        :param default: the value if the key is not set.
        :param maximum: the largest valid value.
        :returns: the value.
        :raises ConfError: the value is not a number, or is out of range.
        """
        value, line = self._values.get(key, (default, 0))
        if not isinstance(value, int) or not 0 <= value <= maximum:
            raise ConfError(f"{key} has to be a number, 0 to {maximum}", line, self._path)
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return the value of a setting that is 0 or 1.

        :param key: the key.
        :param default: the value if the key is not set.
        :returns: whether the value is 1.
        :raises ConfError: the value is neither 0 nor 1.
        """
        value, line = self._values.get(key, (int(default), 0))
        if value not in (0, 1):
            raise ConfError(f"{key} has to be 0 or 1", line, self._path)
        return value == 1

    def text(self, key: str) -> str | None:
        """Return the value of a setting that is a text.

        :param key: the key.
        :returns: the value, or None if the key is not set.
        :raises ConfError: the value is not a text.
        """
        if key not in self._values:
            return None
        value, line = self._values[key]
        if not isinstance(value, str):
            raise ConfError(f'{key} has to be a text in quotes, like {key} = "..."', line, self._path)
        return value

    def texts(self, key: str) -> list[str]:
        """Return the value of a setting that is a list of texts.

        :param key: the key.
        :returns: the texts; none if the key is not set.
        :raises ConfError: the value is not a list of texts.
        """
        value, line = self._values.get(key, ([], 0))
        texts = [item for item in value if isinstance(item, str)] if isinstance(value, list) else None
        if texts is None or texts != value:
            message = f'{key} has to be a list of texts in quotes, like {key} = [ "..." ]'
            raise ConfError(message, line, self._path)
        return texts


def read(path: Path) -> Conf | None:
    """Read a configuration file.

    :param path: the file.
    :returns: the settings, or None if the file does not exist.
    :raises ConfError: the file cannot be read, or does not follow the syntax.
    """
    try:
        # Looked at before it is opened: opening a device may have an effect.
        _check(path, os.stat(path))
        with open(path, "rb", opener=lambda name, _: os.open(name, _FLAGS)) as file:
            _check(path, os.fstat(file.fileno()))
            data = file.read(_SIZE_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfError(f"cannot be read: {error.strerror}", 0, path) from None
    if len(data) > _SIZE_MAX:
        raise ConfError(f"has more than {_SIZE_MAX} bytes", 0, path)
    # Line breaks of other systems count too, as in Python's text files.
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    return parse(text, path)


def _check(path: Path, status: os.stat_result) -> None:
    is_null = stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE
    if not stat.S_ISREG(status.st_mode) and not is_null:
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
        raise ConfError(f"cannot be read: it is {what}", 0, path)


def parse(text: str, path: Path | None = None) -> Conf:
    """Parse the text of a configuration file.

    If a key is set twice, the first value is used, as libvirt does.

    :param text: the text.
    :param path: the file, for error messages; None if the text is not from a file.
    :returns: the settings.
    :raises ConfError: the text does not follow the syntax.
    """
    return Conf(_Parser(text, path).settings(), path)


class _Parser:
    def __init__(self, text: str, path: Path | None) -> None:
        self._text = text
        self._path = path
        self._position = 0
        self._line = 1
        self._line_position = 0

    def settings(self) -> dict[str, tuple[Value, int]]:
        values: dict[str, tuple[Value, int]] = {}
        while True:
            self._skip(_SPACE_AND_LINES)
            if self._position == len(self._text):
                return values
            key = self._take(_KEY, "a setting begins with its name").group()
            self._expect("=", f"'=' is missing after {key}")
            line = self._count_lines()
            values.setdefault(key, (self._value(), line))
            self._skip(_SPACE)
            if self._position < len(self._text) and self._text[self._position] != "\n":
                raise self._error("there is text after the value")

    def _value(self) -> Value:
        self._skip(_SPACE)
        if self._text.startswith("[", self._position):
            return self._list()
        return self._scalar()

    def _scalar(self) -> int | str:
        number = _NUMBER.match(self._text, self._position)
        if number is not None:
            self._position = number.end()
            try:
                return int(number.group())
            except ValueError:  # more digits than Python converts (sys.set_int_max_str_digits)
                raise self._error("the number is too large") from None
        text = self._take(_TEXT, "a value is a number, a text in quotes, or a list in brackets")
        return next(part for part in text.groups() if part is not None)

    def _list(self) -> list[int | str]:
        self._position += 1
        items: list[int | str] = []
        while True:
            self._skip(_SPACE_AND_LINES)
            if self._text.startswith("]", self._position):
                self._position += 1
                return items
            if items:
                self._expect(",", "',' or ']' is missing in a list")
                self._skip(_SPACE_AND_LINES)
                if self._text.startswith("]", self._position):
                    continue
            items.append(self._scalar())

    def _expect(self, character: str, otherwise: str) -> None:
        self._skip(_SPACE)
        if not self._text.startswith(character, self._position):
            raise self._error(otherwise)
        self._position += 1

    def _take(self, pattern: re.Pattern[str], otherwise: str) -> re.Match[str]:
        match = pattern.match(self._text, self._position)
        if match is None:
            raise self._error(otherwise)
        self._position = match.end()
        return match

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._position)
        if match is not None:
            self._position = match.end()

    def _count_lines(self) -> int:
        """Return the number of the present line. Lines are counted from the last call on: all together, once."""
        self._line += self._text.count("\n", self._line_position, self._position)
        self._line_position = self._position
        return self._line

    def _error(self, message: str) -> ConfError:
        return ConfError(message, self._count_lines(), self._path)
