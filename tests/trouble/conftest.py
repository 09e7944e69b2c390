"""Fixtures of the trouble that others may make."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.trouble.hanging_filesystem import HangingFilesystem, can_mount, mounted


@pytest.fixture
def mount(tmp_path: Path) -> Iterator["Mount"]:
    """Mounts file systems that hang on demand, as many as a test asks for."""
    if not can_mount():
        pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
    with ExitStack() as stack:
        yield Mount(tmp_path, stack)


class Mount:
    """Callable: mounts another file system under the given name."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack

    def __call__(self, name: str) -> HangingFilesystem:
        return self._stack.enter_context(mounted(self._directory / name))


@pytest.fixture
def filesystem(mount: Mount) -> HangingFilesystem:
    """One file system that hangs on demand."""
    return mount("server")
