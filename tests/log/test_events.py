"""What the log says of an owner."""

import logging
from pathlib import Path

import pytest

from lockd.daemon import events
from lockd.locks.engine import Engine
from lockd.locks.resource import DIRECT, Resource
from tests.private_daemon import private_daemon
from tests.raw_client import NOBODY, SHARED, RawClient


def test_an_owner_of_whom_only_the_pid_is_known_is_named_by_it(caplog: pytest.LogCaptureFixture) -> None:
    """virtlockd tells no more of an owner that has no client of its own."""
    disk = Resource(DIRECT, "/disk", "/disk", Engine(), 0.0, shared=False, autocreate=False)
    with caplog.at_level(logging.INFO, logger="lockd.daemon.events"):
        events.taken_over(disk, 4711, None)
    assert [record.getMessage() for record in caplog.records] == ["pid 4711 keeps /disk"]


def test_a_release_of_what_nobody_holds_is_answered_as_an_error_and_not_logged_as_one(tmp_path: Path) -> None:
    """libvirt releases twice at each suspend, save and migration, on connections of its own."""
    disk, common = tmp_path / "disk", tmp_path / "common"
    for file in (disk, common):
        file.touch()
    with (
        private_daemon(tmp_path / "daemon") as daemon,
        RawClient(daemon) as client,
        RawClient(daemon, NOBODY + 1) as sharer,
    ):
        assert client.acquire(disk) is None
        assert sharer.acquire(common, flags=SHARED) is None
        with RawClient(daemon) as libvirtd:
            assert libvirtd.release(disk) is None
            assert libvirtd.release(disk) == f"resource busy: Lockspace resource '{disk}' is not locked"
        assert "error" not in daemon.log.read_text()
        # It is an error if somebody else holds it.
        assert client.release(common) is not None
        assert "does not hold the resource lock" in daemon.log.read_text()
