"""Two devices, or a device and a file, with the same data. virtlockd grants both, and two guests destroy it."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from tests.differences.conftest import Scene
from tests.handover.program import upgrade
from tests.lock_fixtures import loop_device, partitioned
from tests.raw_client import SHARED

UNDER = "which it is on"
OVER = "which is on it"
SAME = "which has the same data"
SOME = "which has some of the same data"

RELATIONS = {
    ("file", "disk"): UNDER,
    ("disk", "first"): UNDER,
    ("file", "first"): UNDER,
    ("file", "second disk"): UNDER,
    ("file", "part"): UNDER,
    ("disk", "second"): UNDER,
    ("file", "second"): UNDER,
    ("disk", "second disk"): SAME,
    ("disk", "part"): SOME,
    ("first", "second disk"): SOME,
    ("second", "second disk"): SOME,
    ("second disk", "part"): SOME,
    ("second", "part"): SAME,
    # Not related: ("first", "second"), ("first", "part").
}
"""How what is held is related to what somebody else wants."""

OTHER_WAY = {UNDER: OVER, SAME: SAME, SOME: SOME}


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """A file, the loop device on it, two partitions of that, another loop device, and one of the second partition."""
    with (
        partitioned(tmp_path / "file") as (file, disk, (first, second)),
        loop_device(file) as second_disk,
        loop_device(file, "--offset", f"{1024 * 512}", "--sizelimit", f"{512 * 512}") as part,
    ):
        yield {
            "file": file,
            "disk": disk,
            "first": first,
            "second": second,
            "second disk": second_disk,
            "part": part,
        }


def test_virtlockd_grants_all(virtlockd: Scene, paths: dict[str, Path]) -> None:
    assert [virtlockd.client.acquire(path) for path in paths.values()] == [None] * 6


def test_what_has_the_data_of_a_held_device_is_busy(lockd: Scene, paths: dict[str, Path]) -> None:
    for pair in combinations(paths, 2):
        relation = RELATIONS.get(pair)
        for held, wanted in (pair, pair[::-1]):
            assert lockd.client.acquire(paths[held]) is None, (held, wanted)
            refusal = lockd.client.acquire(paths[wanted])
            if relation is None:
                assert refusal is None
                assert lockd.client.release(paths[wanted]) is None
            else:
                how = relation if (held, wanted) == pair else OTHER_WAY[relation]
                assert refusal == (
                    f"resource busy: Lockspace resource '{paths[wanted]}' is locked by domain \"vm1\" (pid 4000001), "
                    f"through {paths[held]}, {how}"
                )
            assert lockd.client.release(paths[held]) is None
            assert lockd.client.acquire(paths[wanted]) is None, (held, wanted)
            assert lockd.client.release(paths[wanted]) is None

    # Who shares them gets all; who does not share them gets none.
    assert [lockd.client.acquire(path, flags=SHARED) for path in paths.values()] == [None] * 6
    for path in paths.values():
        assert lockd.client.release(path) is None
        assert ", through " in (lockd.client.acquire(path) or "")
        assert lockd.client.acquire(path, flags=SHARED) is None
    assert [lockd.client.release(path) for path in paths.values()] == [None] * 6

    # The next program knows of a held device what this one knew.
    assert lockd.client.acquire(paths["disk"]) is None
    upgrade(lockd.daemon)
    for other in ("file", "first", "second disk"):
        assert "is locked by domain" in (lockd.client.acquire(paths[other]) or "")
    assert lockd.client.release(paths["disk"]) is None
    assert lockd.client.acquire(paths["file"]) is None
