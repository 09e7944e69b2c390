"""Play all points, in several processes, and report them.

    python -m tests.faults [--jobs 2] [--scenario life] [--only TEXT] [--quick]

The exit status is 1 if something was found.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.faults import player
from tests.faults.player import Result
from tests.faults.points import quick_selection

_AT_ONCE = 20
"""How many points one daemon plays at most, if it stays clean."""


def main() -> int:
    """Play the points that the command line asks for.

    :returns: the exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many processes (default: 2)")
    parser.add_argument("--scenario", choices=player.SCENARIOS, action="append")
    parser.add_argument("--only", default="", help="only the points with this text in their description")
    parser.add_argument("--quick", action="store_true", help="only one point of each group")
    options = parser.parse_args()
    points = [point for name in options.scenario or player.SCENARIOS for point in player.record_alone(name)]
    if options.quick:
        points = quick_selection(points)
    points = [point for point in points if options.only in str(point)]
    print(f"{len(points)} points", flush=True)
    chunks = [points[first : first + _AT_ONCE] for first in range(0, len(points), _AT_ONCE)]
    results: list[Result] = []
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for some in pool.map(player.play_alone, chunks):
            results += some
            for result in some:
                if result.finding is not None:
                    print(f"{result.point}: {result.finding}", flush=True)
    print(player.report(results))
    return 1 if any(result.finding is not None for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
