"""Play rounds of scenes, alternately on each server."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.daemons import NotMeasuredError
from benchmarks.scenes import Figures, Scene, play

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.daemons import Server
    from benchmarks.requirements import Rounds


def play_rounds(
    servers: Sequence[Server], scenes: Sequence[Scene], load: Path, count: int, seconds: float
) -> tuple[Rounds, list[str]]:
    """Play each scene in `count` rounds on each server that supports it; a run of calls takes `seconds`.

    The servers are measured directly one after the other, and every second time in reverse order, so that
    other load on the machine affects all of them alike. Returns the figures, and a line for each failed
    measurement.
    """
    rounds: Rounds = {server.name: {scene.name: [] for scene in scenes} for server in servers}
    failures: list[str] = []
    for number in range(count):
        for scene in scenes:
            _progress(f"round {number + 1} of {count}: {scene.name}")
            for repeat in range(scene.plays):
                for server in servers if (number + repeat) % 2 else reversed(servers):
                    if server.name == "floor" and not scene.floor:
                        continue
                    rounds[server.name][scene.name].append(_play(scene, server, load, seconds, failures))
    _progress("")
    return rounds, failures


def _play(scene: Scene, server: Server, load: Path, seconds: float, failures: list[str]) -> Figures:
    # On tmpfs, creating and unlinking a file always takes the same time. On ext4 it takes longer and longer,
    # because ext4 looks for an inode number that was not deleted recently (measured: 16 clients, indirect: 40
    # times slower).
    with tempfile.TemporaryDirectory(prefix="lockd-benchmark-", dir="/dev/shm") as scratch:
        try:
            return play(scene, server, load, Path(scratch), seconds)
        except NotMeasuredError as error:
            failure = f"{server.name}: {error}"
            if failure not in failures:
                failures.append(failure)
            return {}


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
