"""A confinement for a daemon that is told to lock, make and remove files anywhere, and to kill owners.

The daemon is root. So it gets a mount namespace in which only a scratch directory is writable, devices are absent, and a
pid namespace that has only processes of the fuzzer.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.private_mounts import bind, make_read_only, make_writable, mount, move

_DEVICES = ("null", "zero", "full", "urandom")
"""The only devices that the daemon finds. Opening others, such as a watchdog, has effects."""

_NAMESPACES = (
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount",
    "--mount-proc",
    "--propagation",
    "private",
)


def run_confined(command: Sequence[str]) -> int:
    """Run a command in new pid and mount namespaces, as their process 1, and return its exit status.

    Process 1 cannot be killed by the others, and with its end they all end. The command calls `confine`.
    """
    return subprocess.run([*_NAMESPACES, "--", *command], check=False).returncode


def confine(scratch: Path) -> None:
    """Make the file systems read-only, except for a new one at the directory `scratch`."""
    mount("tmpfs", scratch)
    devices = scratch / "devices"
    devices.mkdir()
    mount("tmpfs", devices)
    for name in _DEVICES:
        (devices / name).touch()
        bind(Path("/dev", name), devices / name)
    move(devices, Path("/dev"))
    make_read_only(Path("/"))
    make_writable(scratch)
