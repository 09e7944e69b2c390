"""The paths of a daemon's sockets and files, for root and for other users."""

import os
from dataclasses import dataclass
from pathlib import Path


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


def own_addresses() -> Addresses:
    """Return the paths for the user that this process runs as."""
    if os.geteuid() == 0:
        return Addresses(
            socket=Path("/run/libvirt/virtlockd-sock"),
            admin_socket=Path("/run/libvirt/virtlockd-admin-sock"),
            pid_file=Path("/run/virtlockd.pid"),
            state_file=Path("/run/virtlockd-restart-exec.json"),
            config_directory=Path("/etc/libvirt"),
        )
    home = Path.home()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    directory = (Path(runtime) if runtime else home / ".cache") / "libvirt"
    config = os.environ.get("XDG_CONFIG_HOME")
    return Addresses(
        socket=directory / "virtlockd-sock",
        admin_socket=directory / "virtlockd-admin-sock",
        pid_file=directory / "virtlockd.pid",
        state_file=directory / "virtlockd-restart-exec.json",
        config_directory=(Path(config) if config else home / ".config") / "libvirt",
    )
