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
    "tests/ctl/test_cleaning.py::test_no_lock_is_given_twice_while_it_cleans": "expects a number of removals within 20 seconds",
    "tests/ctl/test_taking.py::test_run_ends_with_the_exit_status_of_the_command": "on a busy machine the daemon may"
    " still have the lock when the command has ended",
    "tests/handover/test_crowd.py": "counts lines of /proc/locks, and a read may miss some while other tests change them",
    "tests/handover/test_virtlockd.py::test_virtlockd_gets_no_descriptors_that_it_does_not_know": "on a busy machine"
    " the daemon may not have closed the last connection yet",
    "tests/handover/test_virtlockd.py::test_a_process_with_the_pid_of_a_guest_of_virtlockds_is_spared": "chooses a pid",
    "tests/libvirt/test_idle.py": "a lock daemon ends after a second or two in which nothing comes from a busy machine",
    "tests/libvirt/test_session.py::test_the_spawned_lock_daemon_ends_when_idle_and_comes_back": "likewise",
    "tests/trouble/test_dying_owners.py": "chooses pids, which others' new processes would take; limits of time",
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
