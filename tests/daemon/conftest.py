"""Fixtures: a running daemon, and a function that runs its command line."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from lockd.daemon.rate_limit import faults
from tests.private_daemon import LOCKD, PrivateDaemon, in_private_run, private_daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[PrivateDaemon]:
    """A running daemon."""
    with private_daemon(tmp_path / "daemon") as running:
        yield running


@pytest.fixture(autouse=True)
def no_fault_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the faults that earlier tests of this process have met: one limit on messages is for all of them."""
    monkeypatch.setattr(faults, "_seen", 0)


class Virtlockd(Protocol):
    """Function that runs virtlockd with the given arguments until it ends."""

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """The directory that the fixture `virtlockd` has as its /run."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def virtlockd(tmp_path: Path, run_directory: Path) -> Virtlockd:
    """Run virtlockd in a /run of its own, with an empty configuration unless an argument names one."""
    empty = tmp_path / "empty.conf"
    empty.touch()

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        options = list(map(str, arguments))
        if not {"-f", "--config"} & set(options):
            options += ["--config", str(empty)]
        command, environment = in_private_run(run_directory, [str(LOCKD), *options])
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, env=environment, cwd=os.sep
        )

    return run
