"""A selection of the points: each call on each kind of file in a guest's life, and some of an upgrade.

``make nightly`` plays all points.
"""

import pytest

from tests.faults import player, tracer
from tests.faults.points import MAIN, quick_selection
from tests.trouble.hanging_filesystem import can_mount

EVERY = {"start": 3, "life": 1, "end": 2, "upgrade": 4, "adoption": 5, "workers": 3, "takeover": 5}
"""Of how many groups of points one is played. An upgrade takes a second, a guest's life a quarter of it."""

REACHED = {"workers": 0.4}
"""The least part of the points that are reached. The calls are not always made by the same worker thread."""

RECORDINGS = 2
"""How often the points are recorded at most until enough of them are reached. If the program happens to make a call more
while they are recorded than later, all its later calls have other numbers."""


@pytest.mark.parametrize("name", EVERY)
def test_no_fault_costs_a_lock_or_a_guest(name: str) -> None:
    if not can_mount() or not tracer.can_trace():
        pytest.skip("fault injection needs root, /dev/fuse and strace")
    reached = False
    for _ in range(RECORDINGS):
        with player.temporary_world() as world:
            points = quick_selection(player.record(world, name))[:: EVERY[name]]
            results = [player.play(world, point) for point in points]
        print(player.report(results))
        assert not [result for result in results if result.finding is not None], player.report(results)
        reached = sum(result.hit is not None for result in results) >= len(results) * REACHED.get(name, 0.8)
        if reached:
            break
    assert reached


def test_the_log_is_taken_over_though_the_mounts_cannot_be_asked_for() -> None:
    """The log asks for them last. If it was lost, the next upgrade opened it once more, beside the old descriptor."""
    if not can_mount() or not tracer.can_trace():
        pytest.skip("fault injection needs root, /dev/fuse and strace")
    with player.temporary_world() as world:
        asking = [
            point
            for point in player.record(world, "adoption")
            if (point.fault.name, point.fault.error) == ("openat", "EMFILE") and "mountinfo" in point.group
        ]
        for point in asking[-2:]:
            assert player.play(world, point).finding is None
            player.record(world, "adoption")


@pytest.mark.parametrize(("name", "group"), [("read", "socket"), ("poll", "pidfd")])
def test_a_guest_that_hangs_up_is_fenced_though_memory_runs_out(name: str, group: str) -> None:
    """The last such call of a guest's life belongs to the end of a connection of a guest that lives."""
    if not can_mount() or not tracer.can_trace():
        pytest.skip("fault injection needs root, /dev/fuse and strace")
    with player.temporary_world() as world:
        last = [
            point
            for point in player.record(world, "life")
            if point.thread == MAIN
            and (point.fault.name, point.fault.error) == (name, "ENOMEM")
            and group in point.group
        ][-1]
        result = player.play(world, last)
    assert result.hit is not None
    assert result.finding is None
