"""A pytest plugin: a test that needs the machine for itself runs while no other test does.

All other tests run in parallel, in as many processes as ``make test`` starts (pytest-xdist). Two files that are locked
with flock(2) coordinate the processes. Each test holds a lock on ``running``: a shared one, or an exclusive one if it
must run alone. It waits for that lock while it holds ``entrance``, so that a test that must run alone is not overtaken
by later ones.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

ALONE = {
    "tests/handover/test_crowd.py": "holds 9000 locks: other tests would read /proc/locks in pieces, and miss lines",
    "tests/trouble/test_dying_owners.py::test_sixteen_holders_drop_out_at_once": "limits of time",
    "tests/trouble/test_slow_filesystems.py": "limits of time",
}
"""The tests that run alone, as a file or a test of a file, with the reason."""

MACHINES = "tests/systemd/"
"""One process runs all tests in here: two machines of systemd-nspawn that start at the same time remove each other's
directory below /run/systemd/nspawn."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "alone: runs while no other test does, as it needs the machine for itself"
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that run alone."""
    if any(item.nodeid.partition("[")[0] == name or item.nodeid.startswith(f"{name}::") for name in ALONE):
        item.add_marker("alone")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Distribute the tests over the processes."""
    return FileScheduling(config, log)


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives all tests of a file to one process, in their order.

    The tests of a file may share a daemon, and what one test sets the next one may see.
    """

    def _split_scope(self, nodeid: str) -> str:
        return MACHINES if nodeid.startswith(MACHINES) else nodeid.partition("::")[0]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Wait until the test may run."""
    folder = shared_folder(item.config)
    if folder is None:
        return (yield)
    with locked(folder / "entrance", fcntl.LOCK_EX):
        running = locked(
            folder / "running", fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
        )
        running.__enter__()
    try:
        return (yield)
    finally:
        running.__exit__(None, None, None)


def shared_folder(config: pytest.Config) -> Path | None:
    """Find where all processes of this run have their temporary files.

    :param config: the configuration of this process.
    :returns: the directory, or None if this process runs all tests.
    """
    if not hasattr(config, "workerinput"):
        return None
    return Path(config.getoption("basetemp")).parent


@contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    """Hold a lock on a file, and wait for it.

    :param path: the file; it is made if it is missing.
    :param kind: ``fcntl.LOCK_EX`` or ``fcntl.LOCK_SH``.
    """
    with path.open("ab") as file:
        fcntl.flock(file, kind)
        yield
