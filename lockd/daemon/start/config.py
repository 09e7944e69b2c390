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
    """The settings of virtlockd.conf. The defaults are virtlockd's.

    :ivar log_level: the level of messages to log: 1 debug, 2 information, 3 warnings, 4 errors; None if it is
        not set.
    :ivar log_filters: the log filters (``parse_filters``), or None if they are not set.
    :ivar log_outputs: the log outputs (``parse_outputs``), or None if they are not set.
    :ivar max_clients: how many clients may be connected to the lock socket at the same time.
    :ivar admin_max_clients: how many clients may be connected to the admin socket at the same time.
    :ivar lockspaces: the paths of lockspaces that the daemon makes at its start.
    """

    log_level: int | None = None
    log_filters: str | None = None
    log_outputs: str | None = None
    max_clients: int = MAX_CLIENTS
    admin_max_clients: int = ADMIN_MAX_CLIENTS
    lockspaces: tuple[str, ...] = ()


def read_config(path: Path, *, required: bool) -> Config:
    """Read the configuration file.

    :param path: the file.
    :param required: whether it is an error if the file does not exist.
    :returns: the settings; the defaults if the file does not exist and is not required.
    :raises Failure: the file cannot be read, or a setting in it is invalid. The message names the file, and
        the line if it is known.
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
            lockspaces=tuple(values.texts("lockspaces")),
        )
    except conf.ConfError as error:
        raise Failure(str(error)) from None
