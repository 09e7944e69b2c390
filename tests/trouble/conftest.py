"""Fixtures for the trouble that others may make."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.private_daemon import PrivateDaemon, private_daemon
from tests.trouble.guest import Guest
from tests.trouble.hanging_filesystem import HangingFilesystem, can_mount, mounted


class Stage:
    """Everything that a test sets up. It is cleared even when a test fails while processes hang."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self._filesystems: list[HangingFilesystem] = []

    def mount(self, name: str, namespace_of: int | None = None) -> HangingFilesystem:
        """Mount another file system that can hang; a daemon sees those that were mounted before it."""
        if not can_mount():
            pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
        filesystem = self._stack.enter_context(mounted(self._directory / name, namespace_of))
        self._filesystems.append(filesystem)
        return filesystem

    def start_daemon(self) -> PrivateDaemon:
        """Start a daemon, or the next one in its place."""
        return self._stack.enter_context(private_daemon(self._directory / "daemon"))

    def start_guest(self, daemon: PrivateDaemon, owner_pid: int | None = None) -> Guest:
        """Start a guest, for the pid of another process where one is given."""
        return self._stack.enter_context(Guest(daemon.socket, owner_pid=owner_pid))

    def clear(self) -> None:
        """Let everything that hangs return, for until then it cannot be killed; then end it all."""
        for filesystem in self._filesystems:
            filesystem.release_all()
        self._stack.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """An empty stage."""
    stage = Stage(tmp_path)
    yield stage
    stage.clear()


@pytest.fixture
def filesystem(stage: Stage) -> HangingFilesystem:
    """One file system that can hang."""
    return stage.mount("server")


@pytest.fixture
def daemon(stage: Stage, request: pytest.FixtureRequest) -> PrivateDaemon:
    """The daemon, which sees the file system if the test has one."""
    if "filesystem" in request.fixturenames:
        request.getfixturevalue("filesystem")
    return stage.start_daemon()


class MakeGuest:
    """Starts guests of the daemon, as many as a test asks for."""

    def __init__(self, stage: Stage, daemon: PrivateDaemon) -> None:
        self._stage = stage
        self._daemon = daemon

    def __call__(self, owner_pid: int | None = None) -> Guest:
        return self._stage.start_guest(self._daemon, owner_pid)


@pytest.fixture
def make_guest(stage: Stage, daemon: PrivateDaemon) -> MakeGuest:
    return MakeGuest(stage, daemon)
