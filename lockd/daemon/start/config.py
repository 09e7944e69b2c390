"""The daemon's configuration file, virtlockd.conf."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lockd.daemon.failure import Failure
from lockd.wire import conf

MAX_CLIENTS: Final = 1024
ADMIN_MAX_CLIENTS: Final = 5000
_LOG_LEVEL_MAX: Final = 4


@dataclass(frozen=True)
class Config:
    """What virtlockd.conf can set; the defaults are virtlockd's.

    :ivar log_level: 1 debug, 2 information, 3 warnings, 4 errors.
    """

    log_level: int | None = None
    log_filters: str | None = None
    log_outputs: str | None = None
    max_clients: int = MAX_CLIENTS
    admin_max_clients: int = ADMIN_MAX_CLIENTS


def read_config(path: Path, *, required: bool) -> Config:
    """Return the settings of a file; the defaults where it is missing and not ``required``.

    :raises Failure: it cannot be read, or something is wrong in it; says the line.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError as error:
        if required:
            raise Failure(f"{path}: {error.strerror}; name another file with --config") from None
        return Config()
    except OSError as error:
        raise Failure(f"{path}: cannot be read: {error.strerror}") from None
    try:
        values = conf.parse(text)
        return Config(
            log_level=values.number("log_level", 0, _LOG_LEVEL_MAX) or None,
            log_filters=values.text("log_filters"),
            log_outputs=values.text("log_outputs"),
            max_clients=values.number("max_clients", MAX_CLIENTS),
            admin_max_clients=values.number("admin_max_clients", ADMIN_MAX_CLIENTS),
        )
    except conf.ConfError as error:
        raise Failure(f"{path}:{error.line}: {error}") from None
