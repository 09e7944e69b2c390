"""The settings of the log: levels, filters and outputs.

They come from the command line, the environment, virtlockd.conf and ``virt-admin``. The syntax, its limits
and the error texts are virtlockd's, as measured; ``virt-admin`` shows the error texts to its user.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, TypeVar

from lockd.daemon.failure import Failure
from lockd.daemon.start.config import Config

T = TypeVar("T")

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"

_NUMBER = re.compile(r"\s*\+?0*([1-4])", re.ASCII)
"""A level as strtoul(3) reads it."""

_TEXT_MAX: Final = 65536
_SPACES_MAX: Final = 256
"""The largest number of characters and of spaces in a setting. Real settings have far less. A client can send
a text of 4 MiB; without a limit it would keep the daemon busy for minutes."""

_PARTS: Final = {"stderr": 2, "journald": 2, "syslog": 3, "file": 3}
"""How many parts, separated by colons, the setting of an output has, by its destination."""


class Level(IntEnum):
    """The level of a message, with libvirt's number."""

    DEBUG = 1
    INFO = 2
    WARNING = 3
    ERROR = 4


class LogSettingError(ValueError):
    """A log setting is invalid, or its output cannot be opened.

    :param message: the error text.
    :param errno: the error number of the system call that failed; None if the text of the setting is invalid.
    :ivar errno: see the parameter.
    """

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


@dataclass(frozen=True)
class Filter:
    """A level for some parts of the daemon, instead of the level of the whole log.

    :ivar level: the lowest level that is logged.
    :ivar match: the filter applies to parts whose name contains this text. It may have shell wildcards.
    """

    level: Level
    match: str

    def __str__(self) -> str:
        return f"{self.level}:*{self.match}*"

    def matches(self, name: str) -> bool:
        """Return whether the filter applies to a part of the daemon.

        :param name: the name of the part: that of lockd's module, or virtlockd's name for it.
        :returns: whether the filter applies.
        """
        return fnmatchcase(name, f"*{self.match}*")


@dataclass(frozen=True)
class Output:
    """A destination for messages.

    :ivar level: the lowest level that is written there.
    :ivar destination: ``stderr``, ``journald``, ``syslog`` or ``file``.
    :ivar name: the absolute path of a file, or the name that messages have in syslog; None for other
        destinations.
    """

    level: Level
    destination: str
    name: str | None = None

    def __str__(self) -> str:
        where = self.destination if self.name is None else f"{self.destination}:{self.name}"
        return f"{self.level}:{where}"


@dataclass(frozen=True)
class LogSettings:
    """The settings of the log at the start of the daemon.

    :ivar level: the lowest level that is logged for parts of the daemon that no filter matches.
    :ivar filters: the filters. The first one that matches a part applies to it.
    :ivar outputs: the outputs.
    :ivar default_output: the output that is used if none is set.
    """

    level: Level
    filters: list[Filter]
    outputs: list[Output]
    default_output: Output


def parse_filters(text: str) -> list[Filter]:
    """Parse filters.

    :param text: the filters, for example ``1:locking 4:rpc``.
    :returns: the filters, in the same order.
    :raises LogSettingError: the text is invalid. The message names the invalid item.
    """
    return [_parse_filter(item) for item in _items(text)]


def _parse_filter(text: str) -> Filter:
    level, *rest = text.split(":")
    if not rest:
        raise LogSettingError(f"Malformed format for filter '{text}'")
    number = _level(level)
    if number is None:
        raise LogSettingError(f"Invalid priority '{level}' for filter '{text}'")
    # In older versions of libvirt, a plus sign requested stack traces. It has no effect.
    match = rest[0].removeprefix("+")
    if not match:
        raise LogSettingError(f"Invalid match string '{rest[0]}'")
    return Filter(number, match)


def parse_outputs(text: str) -> list[Output]:
    """Parse outputs.

    :param text: the outputs, for example ``3:stderr 1:file:/tmp/log``.
    :returns: the outputs. If several have the same destination and name, only the last one of them.
    :raises LogSettingError: the text is invalid. The message names the invalid item.
    """
    outputs: dict[tuple[str, str | None], Output] = {}
    for item in _items(text):
        output = _parse_output(item)
        place = output.destination, output.name
        outputs.pop(place, None)
        outputs[place] = output
    return list(outputs.values())


def _parse_output(text: str) -> Output:
    parts = text.split(":")
    if len(parts) == 1:
        raise LogSettingError(f"Malformed format for log output '{text}'")
    level, destination, *names = parts
    number = _level(level)
    if number is None:
        raise LogSettingError(f"Invalid log priority '{level}' for log output '{text}'")
    if destination not in _PARTS:
        raise LogSettingError(f"Invalid log destination '{destination}' for log output '{text}'")
    if len(parts) != _PARTS[destination]:
        raise LogSettingError(
            f"Log output '{text}' does not meet the format requirements for destination type '{destination}'"
        )
    name = names[0] if names else None
    return Output(
        number, destination, os.path.abspath(name) if destination == "file" and name is not None else name
    )


def _items(text: str) -> list[str]:
    items = text[: _TEXT_MAX + 1].split(" ", _SPACES_MAX)
    if len(text) > _TEXT_MAX or len(items) > _SPACES_MAX:
        raise LogSettingError(f"More than {_TEXT_MAX} characters or {_SPACES_MAX} items in a log setting")
    return [item for item in items if item]


def _level(text: str) -> Level | None:
    number = _NUMBER.fullmatch(text)
    return Level(int(number[1])) if number else None


def settings_at_start(
    config: Config,
    config_file: Path,
    environment: Mapping[str, str],
    log_directory: Callable[[], Path | None],
    *,
    verbose: bool,
    background: bool,
) -> LogSettings:
    """Return the settings of the log at the start of the daemon.

    The environment takes precedence over the configuration.

    :param config: the configuration.
    :param config_file: the path of the configuration file, for error messages.
    :param environment: the environment variables.
    :param log_directory: returns the directory of the default log file, or None if there is none.
    :param verbose: whether at least informational messages are logged.
    :param background: whether the daemon goes into the background.
    :returns: the settings.
    :raises Failure: a setting is invalid. The message names its source.
    """
    level = (
        _chosen(
            _named_level,
            ("LIBVIRT_DEBUG", environment.get("LIBVIRT_DEBUG")),
            (f"{config_file}: log_level", str(config.log_level or "")),
        )
        or Level.WARNING
    )
    if verbose:
        level = min(level, Level.INFO)
    filters = _chosen(
        parse_filters,
        ("LIBVIRT_LOG_FILTERS", environment.get("LIBVIRT_LOG_FILTERS")),
        (f"{config_file}: log_filters", config.log_filters),
    )
    outputs = _chosen(
        parse_outputs,
        ("LIBVIRT_LOG_OUTPUTS", environment.get("LIBVIRT_LOG_OUTPUTS")),
        (f"{config_file}: log_outputs", config.log_outputs),
    )
    default_output = _default_output(level, log_directory, background=background)
    return LogSettings(level, filters or [], outputs or [default_output], default_output)


def _chosen(parse: Callable[[str], T], *sources: tuple[str, str | None]) -> T | None:
    """Parse the first text that is not empty; return None if there is none.

    :param parse: parses a text.
    :param sources: the name of each source, for error messages, and its text.
    :raises Failure: the text is invalid.
    """
    for where, text in sources:
        if text:
            try:
                return parse(text)
            except LogSettingError as error:
                raise Failure(f"{where}: {error}") from None
    return None


def _named_level(text: str) -> Level:
    for level in Level:
        if text in (str(int(level)), level.name.lower()):
            return level
    raise LogSettingError(f"'{text}' is no level: 1 debug, 2 information, 3 warnings, 4 errors")


def _default_output(level: Level, log_directory: Callable[[], Path | None], *, background: bool) -> Output:
    """Return the output that is used if none is set.

    It is standard error for a daemon in the foreground of a terminal, otherwise the journal. On a host
    without a journal, it is a file for a daemon in the background, if there is a directory for it, otherwise standard
    error.
    """
    if (background or not _on_terminal()) and os.path.exists(JOURNAL_SOCKET):
        # The journal limits the rate of messages (RateLimitBurst= in journald.conf(5)). If debug messages
        # used up that limit, the journal would drop more important ones.
        return Output(max(level, Level.INFO), "journald")
    directory = log_directory() if background else None
    if directory is not None:
        return Output(level, "file", str(directory / "virtlockd.log"))
    return Output(level, "stderr")


def _on_terminal() -> bool:
    try:
        return os.isatty(sys.__stdin__.fileno()) if sys.__stdin__ else False
    except (OSError, ValueError):
        return False
