"""Two devices, or a device and a file, with the same data. virtlockd grants both, and two guests destroy it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.differences.conftest import Scene
from tests.handover.program import upgrade
from tests.lock_fixtures import partitioned
from tests.raw_client import SHARED

PAIRS = [("file", "disk"), ("disk", "first"), ("file", "first"), ("first", "second")]
BOTH_WAYS = [(one, other) for pair in PAIRS for one, other in (pair, pair[::-1])]


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """A file, the loop device on it, and two partitions of that."""
    if os.geteuid() != 0:
        pytest.skip("a block device needs root")
    with partitioned(tmp_path / "file") as (file, disk, (first, second)):
        yield {"file": file, "disk": disk, "first": first, "second": second}


def test_virtlockd_grants_all(virtlockd: Scene, paths: dict[str, Path]) -> None:
    assert [virtlockd.client.acquire(path) for path in paths.values()] == [None] * 4


def test_what_has_the_data_of_a_held_device_is_busy(lockd: Scene, paths: dict[str, Path]) -> None:
    for one, other in BOTH_WAYS:
        assert lockd.client.acquire(paths[one]) is None, (one, other)
        refusal = lockd.client.acquire(paths[other])
        if {one, other} == {"first", "second"}:
            assert refusal is None
            assert lockd.client.release(paths[other]) is None
        else:
            busy = f"resource busy: Lockspace resource '{paths[other]}' is locked by domain \"vm1\" (pid 4000001)"
            assert refusal == busy, (one, other)
        assert lockd.client.release(paths[one]) is None
        assert lockd.client.acquire(paths[other]) is None, (one, other)
        assert lockd.client.release(paths[other]) is None

    # Who shares them gets all.
    assert [lockd.client.acquire(path, flags=SHARED) for path in paths.values()] == [None] * 4
    assert [lockd.client.release(path) for path in paths.values()] == [None] * 4

    # The next program knows of a held device what this one knew.
    assert lockd.client.acquire(paths["disk"]) is None
    upgrade(lockd.daemon)
    for other in ("file", "first"):
        assert "is locked by domain" in (lockd.client.acquire(paths[other]) or "")
    assert lockd.client.release(paths["disk"]) is None
    assert lockd.client.acquire(paths["file"]) is None
