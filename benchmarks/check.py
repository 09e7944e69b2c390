"""A quick check for CI: has lockd become grossly slower than it has to be?

Only ratios to the C floor of the same run count, since the machine's speed and its other load are unknown,
and only half of what `make bench` requires, since a loaded machine gives nobody a quiet minute.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.daemons import NotMeasuredError
from benchmarks.requirements import RATIOS, Ratio, paired_ratio
from benchmarks.rounds import play_rounds
from benchmarks.scenes import SCENES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.daemons import Server

ROUNDS = 3
SECONDS = 0.3

CASES = (
    *(case for case in RATIOS if case.of_floor),
    Ratio("16 clients among 900 idle guests", "900 guests", "16 calls/s", 1.0, 0.6),
)


def run(servers: Sequence[Server], load: Path) -> int:
    """Print the ratio of every case; the exit status is 1 where one is below half of what is required."""
    names = {case.scene for case in CASES}
    scenes = [replace(scene, floor=True) for scene in SCENES if scene.name in names]
    rounds, failures = play_rounds(servers, scenes, load, ROUNDS, SECONDS)
    if failures:
        raise NotMeasuredError("\n".join(failures))
    status = 0
    for case in CASES:
        ratio = paired_ratio(rounds, "floor", case.scene, case.figure)
        assert ratio is not None
        assert case.of_floor is not None
        least = case.of_floor / 2
        verdict = "ok" if ratio >= least else "TOO SLOW"
        status |= ratio < least
        print(f"{case.title:34} {ratio:.2f} of the C floor, at least {least:.2f}: {verdict}")
    return int(status)
