"""A pytest plugin: tests that need the machine for themselves run while no other test does.

Other tests run beside each other, in as many processes as ``make test`` starts (pytest-xdist). Two files that are
locked with flock(2) keep them apart: a test holds ``running``, shared by all tests or by one alone, and takes it with
``entrance`` held, so that a test that waits to be alone is not overtaken by those that come later.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ALONE = {
    "tests/ctl/test_cleaning.py::test_no_lock_is_given_twice_while_it_cleans": "wants much done in 20 seconds",
    "tests/handover/test_crowd.py": "counts lines of /proc/locks, of which a read may miss some while others change",
    "tests/handover/test_virtlockd.py::test_a_process_with_the_pid_of_a_guest_of_virtlockds_is_spared": "chooses a pid",
    "tests/libvirt/test_idle.py": "a lock daemon ends after a second or two in which nothing comes from a busy machine",
    "tests/libvirt/test_session.py::test_the_spawned_lock_daemon_ends_when_idle_and_comes_back": "likewise",
    "tests/trouble/test_dying_owners.py": "chooses pids, which others' new processes would take; limits of time",
    "tests/trouble/test_slow_filesystems.py": "limits of time",
}
"""Which tests, a file or one of its tests, and why."""

MACHINES = "tests/systemd/"
"""Two machines of systemd-nspawn that start at once remove each other's directory below /run/systemd/nspawn: one
process runs all of these tests."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "alone: runs while no other test does, as it needs the machine for itself"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that cannot run beside others, or beside each other."""
    for item in items:
        if any(
            item.nodeid.partition("[")[0] == name or item.nodeid.startswith(f"{name}::") for name in ALONE
        ):
            item.add_marker("alone")
        if item.nodeid.startswith(MACHINES):
            item.add_marker(pytest.mark.xdist_group("machines"))


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
    :returns: the directory, or None where this process runs all tests.
    """
    if not hasattr(config, "workerinput"):
        return None
    return Path(config.getoption("basetemp")).parent


@contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    """Hold a lock on a file, and wait for it.

    :param path: the file, made where it is missing.
    :param kind: ``fcntl.LOCK_EX`` or ``fcntl.LOCK_SH``.
    """
    with path.open("ab") as file:
        fcntl.flock(file, kind)
        yield
