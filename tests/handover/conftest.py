"""Fixtures: a daemon whose program can be replaced, and guests and disks for it."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.handover.program import Program
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.trouble.guest import Guest

MakeGuest: TypeAlias = Callable[[], Guest]
MakeDisk: TypeAlias = Callable[[], Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    program = Program(tmp_path / "sbin")
    program.install("lockd")
    return program


@pytest.fixture
def daemon(tmp_path: Path, program: Program) -> Iterator[PrivateDaemon]:
    with private_daemon(tmp_path / "daemon", program.path) as daemon:
        yield daemon


@pytest.fixture
def make_guest(daemon: PrivateDaemon) -> Iterator[MakeGuest]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Guest(daemon.socket))


@pytest.fixture
def make_disk(tmp_path: Path) -> MakeDisk:
    def make() -> Path:
        path = tmp_path / f"disk{len(list(tmp_path.glob('disk*')))}"
        path.touch()
        return path

    return make


@pytest.fixture
def state_file(daemon: PrivateDaemon) -> Path:
    """The file in which the daemon leaves its state for the next program."""
    directory = daemon.run_directory if os.geteuid() == 0 else daemon.socket.parent
    return directory / "virtlockd-restart-exec.json"
