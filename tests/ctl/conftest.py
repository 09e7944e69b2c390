"""Fixtures: a private daemon, and lockctl beside it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.private_daemon import LOCKD, PrivateDaemon, private_daemon

LOCKCTL = Path(sys.prefix, "bin", "lockctl")
CONFIGURATION = Path("/etc/libvirt")


class Host:
    """A host with one lock daemon, whose programs see a private /run and a private /etc/libvirt.

    If the user is not root, XDG_RUNTIME_DIR and XDG_CONFIG_HOME take their places.
    """

    def __init__(self, directory: Path, daemon: PrivateDaemon) -> None:
        self.directory = directory
        self.daemon = daemon
        self.configuration = directory / "config" / "libvirt"
        self.configuration.mkdir(parents=True)
        self.environment = dict(os.environ) | {"LC_ALL": "C.UTF-8"}
        if os.geteuid() == 0:
            if not CONFIGURATION.exists():
                pytest.skip(f"{CONFIGURATION} is not there to be replaced")
            daemon.run_inside("mount", "--bind", str(self.configuration), str(CONFIGURATION))
            self._prefix = ["nsenter", "--target", str(daemon.pid), "--mount", "--"]
        else:
            self.environment |= {
                "XDG_RUNTIME_DIR": str(daemon.run_directory),
                "XDG_CONFIG_HOME": str(directory / "config"),
            }
            self._prefix = []

    def disk(self, name: str) -> Path:
        """Create a disk and return its path."""
        path = self.directory / name
        path.write_bytes(b"disk")
        return path

    def lockspace(self) -> Path:
        """Configure a lockspace for lease files, and return its directory."""
        leases = self.directory / "leases"
        (self.configuration / "qemu-lockd.conf").write_text(f'file_lockspace_dir = "{leases}"\n')
        return leases

    def command(self, *arguments: str | Path) -> list[str]:
        """Return the command that runs lockctl on this host."""
        return [*self._prefix, str(LOCKCTL), *map(str, arguments)]

    def lockctl(self, *arguments: str | Path, status: int | None = 0) -> str:
        """Run lockctl until it ends; return its standard output, followed by its standard error.

        It has to end with the given exit status; None allows any.
        """
        run = subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )
        assert status is None or run.returncode == status, f"{run.returncode}: {run.stdout}{run.stderr}"
        assert "Traceback" not in run.stderr
        return run.stdout + run.stderr

    @contextmanager
    def holder(
        self, *arguments: str | Path, command: tuple[str, ...] = ("sh", "-c", "echo up; exec cat", "guest")
    ) -> Iterator[subprocess.Popen[str]]:
        """Run a command under ``lockctl run``, with its arguments, until the end of the context."""
        with subprocess.Popen(
            self.command("run", *arguments, "--", *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host whose lock daemon is lockd."""
    with host_with(tmp_path, LOCKD) as host:
        yield host


@contextmanager
def host_with(directory: Path, program: Path) -> Iterator[Host]:
    """Start the given lock daemon, and make a host of it."""
    with private_daemon(directory / "daemon", program) as daemon:
        yield Host(directory, daemon)
