"""Fixtures: lockd and virtlockd, each with a client and a directory for disks."""

from collections.abc import Iterator, Sequence
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

    def lockd(self, *wrapper: str) -> "Scene":
        return self._start("lockd", LOCKD, wrapper)

    def virtlockd(self, *wrapper: str) -> "Scene":
        if reason := pair.missing():
            pytest.skip(reason)
        return self._start("virtlockd", VIRTLOCKD, wrapper)

    def _start(self, name: str, program: Path, wrapper: Sequence[str]) -> "Scene":
        daemon = private_daemon(self._directory / name, program, wrapper=wrapper)
        scene = Scene(self._stack.enter_context(daemon))
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


@pytest.fixture
def virtlockd_as_a_service(daemons: Daemons) -> Scene:
    """virtlockd as the leader of a session without a terminal, as systemd starts services."""
    return daemons.virtlockd("setsid")


@pytest.fixture
def lockd_as_a_service(daemons: Daemons) -> Scene:
    """lockd as the leader of a session without a terminal, as systemd starts services."""
    return daemons.lockd("setsid")
