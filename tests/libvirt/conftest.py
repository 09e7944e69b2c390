"""Hosts with libvirtd and a lock daemon, for every test of the real client."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.libvirt.host import DAEMONS, Host, missing


@contextmanager
def new_host(*, user: str | None = None, lease_files: bool = False) -> Iterator[Host]:
    """A host with nothing started, in a directory that ends with it; its logs are printed at the end.

    Skips the test where the machine cannot have one.
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
    """Each lock daemon in turn: the distribution's is the oracle for the project's own."""
    name: str = request.param
    return name
