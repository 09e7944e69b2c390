"""What the log says of an owner."""

import logging

import pytest

from lockd.daemon import events
from lockd.locks.engine import Engine
from lockd.locks.resource import DIRECT, Resource


def test_an_owner_of_whom_only_the_pid_is_known_is_named_by_it(caplog: pytest.LogCaptureFixture) -> None:
    """virtlockd tells no more of an owner that has no client of its own."""
    disk = Resource(DIRECT, "/disk", "/disk", Engine(), 0.0, shared=False, autocreate=False)
    with caplog.at_level(logging.INFO, logger="lockd.daemon.events"):
        events.taken_over(disk, 4711, None)
    assert [record.getMessage() for record in caplog.records] == ["pid 4711 keeps /disk"]
