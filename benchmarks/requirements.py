"""The ratios and limits that lockd has to reach, and how they are computed from the rounds."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.scenes import Figures

# By server, then by scene: one entry for each time that it was played, empty if it could not be played.
Rounds = dict[str, dict[str, list["Figures"]]]


@dataclass(frozen=True)
class Ratio:
    """A requirement for a ratio of figures.

    lockd's figure divided by virtlockd's has to be at least `at_least`; divided by the floor's, `of_floor`.
    """

    title: str
    scene: str
    figure: str
    at_least: float
    of_floor: float | None = None


@dataclass(frozen=True)
class Limit:
    """A requirement for a figure of lockd.

    It may be at most `at_most`; if `relative`, at most `at_most` times virtlockd's figure.
    """

    title: str
    scene: str
    figure: str
    at_most: float
    relative: bool = False


RATIOS = (
    Ratio("1 client, direct", "0 guests", "1 calls/s", 1.0, 0.8),
    Ratio("16 clients, direct", "0 guests", "16 calls/s", 1.5, 0.6),
    Ratio("1 client, 16 calls in flight", "in flight", "1 calls/s", 2.0, 0.6),
    Ratio("1 client, indirect with AUTOCREATE", "indirect", "1 calls/s", 1.0),
    Ratio("16 clients, indirect", "indirect", "16 calls/s", 1.3),
    Ratio("1 client among 900 idle guests", "900 guests", "1 calls/s", 4.5),
    Ratio("16 clients among 4000 idle guests", "4000 guests", "16 calls/s", 30),
    Ratio("connect, register, acquire one, restrict: 4000 guests", "4000 guests", "guests/s", 10),
    Ratio("refused acquire (busy), 16 clients", "busy", "16 calls/s", 1.0),
)

LIMITS = (
    Limit(
        "resident memory, 4000 guests with a lock each (MB)",
        "4000 guests",
        "resident, MB",
        1.3,
        relative=True,
    ),
    Limit("start to first reply (ms)", "0 guests", "first reply, ms", 150),
    Limit("pause of a live upgrade, 900 guests (ms)", "upgrade", "pause, ms", 250),
    Limit("calls lost by a live upgrade", "upgrade", "lost calls", 0),
)


def typical(rounds: Rounds, server: str, scene: str, figure: str) -> float | None:
    """Return the median of a figure over all rounds, or None if it was never measured."""
    values = [figures[figure] for figures in _played(rounds, server, scene) if figure in figures]
    return median(values) if values else None


def paired_ratio(rounds: Rounds, other: str, scene: str, figure: str) -> float | None:
    """Return the median, over the rounds, of lockd's figure divided by that of `other` in the same round.

    None if there is no round in which both were measured.
    """
    pairs = zip(_played(rounds, "lockd", scene), _played(rounds, other, scene), strict=False)
    ratios = [
        mine[figure] / theirs[figure] for mine, theirs in pairs if theirs.get(figure) and figure in mine
    ]
    return median(ratios) if ratios else None


def _played(rounds: Rounds, server: str, scene: str) -> list[Figures]:
    return rounds.get(server, {}).get(scene, [])
