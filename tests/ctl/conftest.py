"""lockctl on a daemon of a test's own."""

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
    """A machine with one lock daemon: its programs see its /run and its /etc/libvirt.

    An ordinary user's have them below XDG_RUNTIME_DIR and XDG_CONFIG_HOME.
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
        """A new disk."""
        path = self.directory / name
        path.write_bytes(b"disk")
        return path

    def lockspace(self) -> Path:
        """Use lease files from now on; return their directory."""
        leases = self.directory / "leases"
        (self.configuration / "qemu-lockd.conf").write_text(f'file_lockspace_dir = "{leases}"\n')
        return leases

    def command(self, *arguments: str | Path) -> list[str]:
        """How to run lockctl on this host."""
        return [*self._prefix, str(LOCKCTL), *map(str, arguments)]

    def lockctl(self, *arguments: str | Path, status: int | None = 0) -> str:
        """Run lockctl to its end, which must have this status if any; return all it printed.

        What it says beside its output comes after it.
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
        """Run a command that holds disks, with the arguments of ``lockctl run``, until the end of the context."""
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
    """A host with lockd."""
    with host_with(tmp_path, LOCKD) as host:
        yield host


@contextmanager
def host_with(directory: Path, program: Path) -> Iterator[Host]:
    """A host with that lock daemon."""
    with private_daemon(directory / "daemon", program) as daemon:
        yield Host(directory, daemon)
