"""The log's settings: what virtlockd.conf, the environment and ``virt-admin`` say of levels and places.

The syntax, its limits and the error texts are virtlockd's, as measured: ``virt-admin`` shows them to its user.
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
"""Far beyond any use. A text of 4 MiB, which can be sent, would keep the daemon busy for minutes."""

_PARTS: Final = {"stderr": 2, "journald": 2, "syslog": 3, "file": 3}
"""Destinations, and of how many parts a setting of theirs consists."""


class Level(IntEnum):
    """How much is logged, as libvirt numbers it."""

    DEBUG = 1
    INFO = 2
    WARNING = 3
    ERROR = 4


class LogSettingError(ValueError):
    """The setting cannot be followed.

    :ivar errno: of the system call that failed; None where the text is wrong.
    """

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


@dataclass(frozen=True)
class Filter:
    """Another level for the parts of the daemon whose name holds ``match``, in which shell wildcards may be."""

    level: Level
    match: str

    def __str__(self) -> str:
        return f"{self.level}:*{self.match}*"

    def matches(self, name: str) -> bool:
        """Whether the filter is for the part of this name."""
        return fnmatchcase(name, f"*{self.match}*")


@dataclass(frozen=True)
class Output:
    """A place for messages of at least ``level``.

    :ivar name: a file's absolute path, or the name under which syslog gets messages; None for other places.
    """

    level: Level
    destination: str
    name: str | None = None

    def __str__(self) -> str:
        where = self.destination if self.name is None else f"{self.destination}:{self.name}"
        return f"{self.level}:{where}"


@dataclass(frozen=True)
class LogSettings:
    """All that the log is set to when the daemon starts.

    :ivar level: for the parts of the daemon that no filter is for.
    :ivar default_output: where messages go when nothing is said.
    """

    level: Level
    filters: list[Filter]
    outputs: list[Output]
    default_output: Output


def parse_filters(text: str) -> list[Filter]:
    """Return filters from text like ``1:locking 4:rpc``; the first one that matches will count.

    :raises LogSettingError: the text is wrong; says where.
    """
    return [_parse_filter(item) for item in _items(text)]


def _parse_filter(text: str) -> Filter:
    level, *rest = text.split(":")
    if not rest:
        raise LogSettingError(f"Malformed format for filter '{text}'")
    number = _level(level)
    if number is None:
        raise LogSettingError(f"Invalid priority '{level}' for filter '{text}'")
    # In older versions of libvirt a plus sign asked for stack traces.
    match = rest[0].removeprefix("+")
    if not match:
        raise LogSettingError(f"Invalid match string '{rest[0]}'")
    return Filter(number, match)


def parse_outputs(text: str) -> list[Output]:
    """Return outputs from text like ``3:stderr 1:file:/tmp/log``; of two for one place the last one counts.

    :raises LogSettingError: the text is wrong; says where.
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
    config: Config, config_file: Path, environment: Mapping[str, str], *, verbose: bool, background: bool
) -> LogSettings:
    """Return what the log is set to by the command line, the environment and the configuration, in this order.

    :raises Failure: one of them is wrong; says which.
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
    default_output = _default_output(level, environment, background=background)
    return LogSettings(level, filters or [], outputs or [default_output], default_output)


def _chosen(parse: Callable[[str], T], *sources: tuple[str, str | None]) -> T | None:
    """Return what the first source that says anything says."""
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


def _default_output(level: Level, environment: Mapping[str, str], *, background: bool) -> Output:
    """Return where a daemon logs to that is not told: a terminal, the journal, a file, or standard error."""
    if (background or not _on_terminal()) and Path(JOURNAL_SOCKET).exists():
        # The journal limits how much it takes: debugging messages would cost it the others.
        return Output(max(level, Level.INFO), "journald")
    if background:
        return Output(level, "file", str(_log_directory(environment) / "virtlockd.log"))
    return Output(level, "stderr")


def _on_terminal() -> bool:
    try:
        return os.isatty(sys.__stdin__.fileno()) if sys.__stdin__ else False
    except (OSError, ValueError):
        return False


def _log_directory(environment: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/log/libvirt")
    cache = environment.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "libvirt"
