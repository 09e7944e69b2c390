"""The paths of a daemon's sockets and files, for root and for other users."""

import os
from dataclasses import dataclass
from pathlib import Path


class HomeUnknown(Exception):
    """The user has no home directory, and the environment names no other place for the files.

    The message is one line for the user.
    """


@dataclass(frozen=True)
class Addresses:
    """The paths of one daemon: that of root or of another user. They are the same as virtlockd's.

    :ivar socket: the socket of the lock program.
    :ivar admin_socket: the socket of the admin program and the status program.
    :ivar pid_file: the file with the daemon's pid.
    :ivar state_file: the file of the state document.
    :ivar config_directory: the directory of the configuration files.
    """

    socket: Path
    admin_socket: Path
    pid_file: Path
    state_file: Path
    config_directory: Path

    @property
    def config_file(self) -> Path:
        """The configuration file of the daemon."""
        return self.config_directory / "virtlockd.conf"


def default_pool() -> Path:
    """Return the directory of libvirt's default storage pool for the user that this process runs as."""
    if os.geteuid() == 0:
        return Path("/var/lib/libvirt/images")
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "libvirt" / "images"


def own_addresses() -> Addresses:
    """Return the paths for the user that this process runs as.

    :raises HomeUnknown: see there.
    """
    if os.geteuid() == 0:
        return Addresses(
            socket=Path("/run/libvirt/virtlockd-sock"),
            admin_socket=Path("/run/libvirt/virtlockd-admin-sock"),
            pid_file=Path("/run/virtlockd.pid"),
            state_file=Path("/run/virtlockd-restart-exec.json"),
            config_directory=Path("/etc/libvirt"),
        )
    directory = _base_directory("XDG_RUNTIME_DIR", ".cache") / "libvirt"
    return Addresses(
        socket=directory / "virtlockd-sock",
        admin_socket=directory / "virtlockd-admin-sock",
        pid_file=directory / "virtlockd.pid",
        state_file=directory / "virtlockd-restart-exec.json",
        config_directory=_base_directory("XDG_CONFIG_HOME", ".config") / "libvirt",
    )


def own_log_directory() -> Path:
    """Return the directory of the log files for the user that this process runs as.

    :raises HomeUnknown: see there.
    """
    if os.geteuid() == 0:
        return Path("/var/log/libvirt")
    return _base_directory("XDG_CACHE_HOME", ".cache") / "libvirt"


def _base_directory(variable: str, below_home: str) -> Path:
    """Return the directory that an environment variable names, or else a directory below the home directory.

    A relative path is ignored (XDG Base Directory Specification). It would name another directory after the daemon
    has changed its working directory.
    """
    named = os.environ.get(variable, "")
    if os.path.isabs(named):
        return Path(named)
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise HomeUnknown(
            f"user {os.geteuid()} has no home directory; set HOME or {variable} to an absolute path"
        )
    return Path(home, below_home)
