"""Fixtures: a daemon, guests, and file systems that can hang."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.private_daemon import LOCKD, PrivateDaemon, private_daemon
from tests.trouble.guest import Guest
from tests.trouble.hanging_filesystem import HangingFilesystem, can_mount, mounted, mounted_on_hosts


class Stage:
    """Everything that a test has started. It is ended even if the test fails while processes hang."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self._filesystems: list[HangingFilesystem] = []

    def mount(self, name: str, namespace_of: int | None = None) -> HangingFilesystem:
        """Mount a file system that can hang; a daemon sees it only if it is started afterwards.

        With `namespace_of`, mount it in the mount namespace of the process with that pid.
        """
        if not can_mount():
            pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
        filesystem = self._stack.enter_context(mounted(self._directory / name, namespace_of))
        self._filesystems.append(filesystem)
        return filesystem

    def mount_on_hosts(self, *names: str) -> list[HangingFilesystem]:
        """Mount the same files several times, as on several hosts."""
        if not can_mount():
            pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
        points = [self._directory / name for name in names]
        filesystems = self._stack.enter_context(mounted_on_hosts(points))
        self._filesystems += filesystems
        return filesystems

    def start_daemon(
        self, name: str = "daemon", program: Path = LOCKD, wrapper: Sequence[str] = ()
    ) -> PrivateDaemon:
        """Start a daemon, or its successor at the same sockets."""
        return self._stack.enter_context(private_daemon(self._directory / name, program, wrapper=wrapper))

    def start_guest(self, daemon: PrivateDaemon, owner_pid: int | None = None) -> Guest:
        """Start a guest. It registers `owner_pid`, or its own pid if that is None."""
        return self._stack.enter_context(Guest(daemon.socket, owner_pid=owner_pid))

    def clear(self) -> None:
        """End everything.

        First answer the requests that hang: until then their processes cannot be killed.
        """
        for filesystem in self._filesystems:
            filesystem.release_all()
        self._stack.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage on which nothing is started yet."""
    stage = Stage(tmp_path)
    yield stage
    stage.clear()


@pytest.fixture
def filesystem(stage: Stage) -> HangingFilesystem:
    """A file system that can hang."""
    return stage.mount("server")


@pytest.fixture
def daemon(stage: Stage, request: pytest.FixtureRequest) -> PrivateDaemon:
    """A daemon. If the test uses the fixture `filesystem`, the daemon sees it."""
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
