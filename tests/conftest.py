"""Settings and hooks of all tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.container import Container

pytest_plugins = ["tests.checks.one_at_a_time", "tests.checks.skips"]

# No deadline for an example: on a busy machine its duration means nothing.
settings.register_profile("lockd", deadline=None)
# For make nightly: more examples, and for each failure the code that reproduces it.
settings.register_profile(
    "nightly",
    deadline=None,
    max_examples=int(os.environ.get("LOCKD_EXAMPLES", "5000")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "lockd"))

LONG = ("tests/systemd/", "tests/fuzz/", "tests/handover/test_load.py", "tests/test_compiled.py")
"""The longest tests. They start first, so that no process runs one alone at the end."""

_own_directory = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give the tests a directory with a short path: a socket's may have 107 bytes, and xdist adds to it."""
    if config.option.basetemp is None:
        directory = Path(tempfile.mkdtemp(prefix="lockd-", dir="/tmp"))
        config.option.basetemp = str(directory)
        config.stash[_own_directory] = directory


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that directory, unless a test has failed: its files may show why."""
    directory = config.stash.get(_own_directory, None)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if directory is not None and not (reporter and reporter.stats.keys() & {"failed", "error"}):
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty file that stands for the disk of a guest."""
    path = tmp_path / "disk"
    path.touch()
    return path


@pytest.fixture
def container() -> Iterator[Container]:
    """A container: processes in it have a pid namespace of their own."""
    with Container() as container:
        yield container


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host. Guests in containers get the same pid there."""
    with subprocess.Popen(["sleep", "infinity"]) as process:
        yield process
        process.kill()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
