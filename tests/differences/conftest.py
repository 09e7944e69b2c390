"""Fixtures: lockd and virtlockd, each with a client and a directory for disks."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.differential import pair
from tests.private_daemon import LOCKD, VIRTLOCKD, PrivateDaemon, private_daemon
from tests.raw_client import RawClient


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator["Daemons"]:
    """A `Daemons` for the test. It skips the test if virtlockd is needed and cannot run."""
    with ExitStack() as stack:
        yield Daemons(tmp_path, stack)


class Daemons:
    """Starts lockd or virtlockd, each with a directory of its own."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack

    def lockd(self) -> "Scene":
        return self._start("lockd", LOCKD)

    def virtlockd(self) -> "Scene":
        if reason := pair.missing():
            pytest.skip(reason)
        return self._start("virtlockd", VIRTLOCKD)

    def _start(self, name: str, program: Path) -> "Scene":
        scene = Scene(self._stack.enter_context(private_daemon(self._directory / name, program)))
        self._stack.callback(scene.client.close)
        return scene


class Scene:
    """A running daemon, a client of that daemon, and a directory for disks."""

    def __init__(self, daemon: PrivateDaemon) -> None:
        self.daemon = daemon
        self.client = RawClient(daemon)
        self.directory = daemon.directory / "disks"
        self.directory.mkdir()

    def disk(self, name: str = "disk") -> Path:
        path = self.directory / name
        path.write_bytes(b"")
        return path

    def leases(self) -> Path:
        """Have the daemon create a lockspace, and return its directory."""
        path = self.directory / "leases"
        assert self.client.create_lockspace(path) is None
        return path


@pytest.fixture
def virtlockd(daemons: Daemons) -> Scene:
    return daemons.virtlockd()


@pytest.fixture
def lockd(daemons: Daemons) -> Scene:
    return daemons.lockd()
