"""The columns of ``lockctl status``, for its table and for JSON."""

import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from lockd.ctl.holdings import Holding

Value: TypeAlias = str | int | None

_DAY_SECONDS: Final = 86400


class Column(NamedTuple):
    """One column.

    :ivar name: the heading. The key in JSON is the same in lower case.
    :ivar help: the explanation in ``lockctl status --help``.
    :ivar value: returns the value for JSON and --raw.
    :ivar short: returns a shorter value for the table; None if the table shows the same value.
    :ivar right: whether the table aligns the column to the right.
    """

    name: str
    help: str
    value: Callable[[Holding], Value]
    short: Callable[[Holding], Value] | None = None
    right: bool = False


def _moment(seconds: float | None) -> str | None:
    """Return a time as in ISO 8601, in seconds and local time."""
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def _short_moment(seconds: float | None) -> str | None:
    """Return the time of day, or the date if it is more than a day ago."""
    if seconds is None:
        return None
    form = "%H:%M:%S" if 0 <= time.time() - seconds < _DAY_SECONDS else "%Y-%m-%d"
    return time.strftime(form, time.localtime(seconds))


def _mode(holding: Holding) -> str:
    return "exclusive" if holding.exclusive else "shared"


def _mode_and_state(holding: Holding) -> str:
    return _mode(holding) if holding.state == "held" else f"{_mode(holding)}*"


def _file(holding: Holding) -> str | None:
    if holding.device is None:
        return None
    device = f"{os.major(holding.device)}:{os.minor(holding.device)}"
    return device if holding.inode == -1 else f"{device}:{holding.inode}"


_ALL: Final = [
    Column("MODE", "exclusive or shared; with a * while being acquired or released", _mode, _mode_and_state),
    Column("OWNER", "name of the guest or program that holds the lock", lambda holding: holding.owner),
    Column("PID", "process id of the owner", lambda holding: holding.pid, right=True),
    Column(
        "SINCE",
        "when the lock was requested",
        lambda holding: _moment(holding.since),
        lambda holding: _short_moment(holding.since),
    ),
    Column("RESOURCE", "the disk if it is known, otherwise the locked file", lambda h: h.disk or h.path),
    Column(
        "LOCKSPACE",
        "directory of the lockspace; none if the disk itself is locked",
        lambda h: h.lockspace or None,
    ),
    Column("NAME", "name of the resource in its lockspace", lambda holding: holding.name),
    Column("PATH", "the locked file", lambda holding: holding.path),
    Column("STATE", "held, acquiring or releasing", lambda holding: holding.state),
    Column("UUID", "UUID of the owner", lambda holding: holding.uuid),
    Column("DEVICE", "device and inode of the locked file: major:minor:inode", _file),
    Column(
        "CONNECTION", "number of the owner's connection to the daemon", lambda h: h.connection, right=True
    ),
    Column(
        "FENCING",
        "since when the owner is being killed, because it lost its connection",
        lambda holding: _moment(holding.fencing),
        lambda holding: _short_moment(holding.fencing),
    ),
    Column("SLOW", "mount point of a file system that may block", lambda holding: holding.slow),
    Column(
        "KERNEL",
        "whether /proc/locks agrees: yes, no, unlisted, or server if it cannot know",
        lambda holding: holding.kernel,
    ),
    Column(
        "DOUBT", "why the lock may protect nothing, such as a replaced file", lambda holding: holding.doubt
    ),
]

COLUMNS: Final = {column.name: column for column in _ALL}
DEFAULT: Final = ("MODE", "OWNER", "PID", "SINCE", "RESOURCE")


def columns_named(names: str) -> list[Column]:
    """Return the columns that ``--output`` names.

    :param names: column names in upper or lower case, separated by commas. If the list begins with ``+``, the
        columns are added to the default ones.
    :returns: the columns, in the order of the list.
    :raises ValueError: there is no such column.
    """
    chosen = [COLUMNS[name] for name in DEFAULT] if names.startswith("+") else []
    for name in names.removeprefix("+").split(","):
        column = COLUMNS.get(name.upper())
        if column is None:
            raise ValueError(f"there is no column {name}; there are {', '.join(COLUMNS)}")
        chosen.append(column)
    return chosen
