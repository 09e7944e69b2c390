"""Fixtures: hosts with libvirtd and a lock daemon."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.libvirt.host import DAEMONS, Host, missing


@contextmanager
def new_host(*, user: str | None = None, lease_files: bool = False) -> Iterator[Host]:
    """Make a host without running daemons, in a directory that is removed at the end.

    Its logs are printed at the end. Skips the test if this machine cannot run such a host.
    """
    if reason := missing():
        pytest.skip(reason)
    # Not pytest's own directory: UNIX sockets need short paths, and other users need to get there.
    with (
        tempfile.TemporaryDirectory(prefix="lockd-") as directory,
        Host(Path(directory), user=user, lease_files=lease_files) as host,
    ):
        yield host
        print(host.logs())


@pytest.fixture(params=DAEMONS, scope="module")
def daemon(request: pytest.FixtureRequest) -> str:
    """lockd and virtlockd in turn: virtlockd shows that the expectation of a test is right."""
    name: str = request.param
    return name
