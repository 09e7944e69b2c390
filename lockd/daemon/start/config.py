"""The daemon's configuration file, virtlockd.conf."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lockd.daemon.failure import Failure
from lockd.libvirt import conf

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
    """Return the settings of a file.

    :param path: the file.
    :param required: whether the file has to exist.
    :returns: the settings; the defaults where the file is missing and not required.
    :raises Failure: the file cannot be read, or something is wrong in it; says the line.
    """
    try:
        values = conf.read(path)
        if values is None:
            if required:
                raise Failure(f"{path}: {os.strerror(errno.ENOENT)}; name another file with --config")
            return Config()
        return Config(
            log_level=values.number("log_level", 0, _LOG_LEVEL_MAX) or None,
            log_filters=values.text("log_filters"),
            log_outputs=values.text("log_outputs"),
            max_clients=values.number("max_clients", MAX_CLIENTS),
            admin_max_clients=values.number("admin_max_clients", ADMIN_MAX_CLIENTS),
        )
    except conf.ConfError as error:
        raise Failure(str(error)) from None
