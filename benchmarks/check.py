"""A quick check for CI that lockd has not become much slower.

It compares the processor time of a call with that of the C floor server in the same run. The speed of the
machine, and other load on it, change both times alike, so their ratio hardly changes. Calls per second would
mean little on a machine that others use, too. The limits are about twice the ratios that are measured today.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks.daemons import NotMeasuredError
from benchmarks.requirements import paired_ratio
from benchmarks.rounds import play_rounds
from benchmarks.scenes import SCENES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.daemons import Server

ROUNDS = 3
SECONDS = 0.3


class Case(NamedTuple):
    """A limit: lockd may use at most `at_most` times the floor's processor time for a call."""

    title: str
    scene: str
    figure: str
    at_most: float


CASES = (
    Case("1 client", "0 guests", "1 processor µs", 3.5),
    Case("16 clients", "0 guests", "16 processor µs", 3.5),
    Case("1 client, 16 calls in flight", "in flight", "1 processor µs", 4),
    Case("1 client among 900 idle guests", "900 guests", "1 processor µs", 3),
    Case("16 clients among 900 idle guests", "900 guests", "16 processor µs", 3.5),
)


def run(servers: Sequence[Server], load: Path) -> int:
    """Print the ratio of every case; return the exit status, which is 1 if a ratio is above its limit."""
    scenes = [scene for scene in SCENES if scene.name in {case.scene for case in CASES}]
    rounds, failures = play_rounds(servers, scenes, load, ROUNDS, SECONDS)
    status = 0
    for case in CASES:
        ratio = paired_ratio(rounds, "floor", case.scene, case.figure)
        if ratio is None:
            raise NotMeasuredError("; ".join(failures))
        verdict = "ok" if ratio <= case.at_most else "TOO SLOW"
        status |= ratio > case.at_most
        print(
            f"{case.title:34} {ratio:.2f} times the floor's processor time, at most {case.at_most}: {verdict}"
        )
    return int(status)
