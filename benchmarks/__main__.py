"""`python -m benchmarks`: run the benchmarks, and print and write the results. See --help."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import check, daemons, picture, report
from benchmarks.daemons import NotMeasuredError
from benchmarks.rounds import play_rounds
from benchmarks.scenes import SCENES

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.daemons import Server

BUILD = Path(__file__).parents[1] / "build"


def main() -> int:
    """Run the benchmarks; return the exit status: 1 if a check failed or lockd could not be measured."""
    arguments = _parse()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    try:
        daemons.enter_private_run([sys.executable, "-m", "benchmarks", *sys.argv[1:]])
        if arguments.check:
            return check.run([daemons.floor(arguments.floor), daemons.lockd(arguments.lockd)], arguments.load)
        return _measure(arguments)
    except NotMeasuredError as error:
        print(error, file=sys.stderr)
        return 1


def _measure(arguments: argparse.Namespace) -> int:
    servers, failures = _servers(arguments)
    described = report.machine(servers)
    scenes = [scene for scene in SCENES if not arguments.scene or scene.name in arguments.scene]
    rounds, more_failures = play_rounds(servers, scenes, arguments.load, arguments.rounds, arguments.seconds)
    failures += more_failures
    for table in (report.requirement_table, report.limit_table, report.growth_table):
        print(table(rounds), end="\n\n")
    for failure in failures:
        print(f"not measured: {failure}")
    for line in report.missed(rounds):
        print(f"missed: {line}")
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        page = arguments.output / "benchmarks.md"
        page.write_text(report.document(rounds, described, failures, arguments.rounds))
        figures = {"machine": described, "rounds": rounds, "not measured": failures}
        page.with_suffix(".json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
        page.with_suffix(".svg").write_text(picture.draw(rounds))
        print(f"written: {page}, {page.with_suffix('.json').name}, {page.with_suffix('.svg').name}")
    return 0


def _servers(arguments: argparse.Namespace) -> tuple[list[Server], list[str]]:
    """Return the servers that can be measured, and a line for each that cannot."""
    candidates: list[tuple[Callable[[Path], Server], Path]] = [
        (daemons.floor, arguments.floor),
        (daemons.virtlockd, arguments.virtlockd),
        (daemons.lockd, arguments.lockd),
    ]
    servers, failures = [], []
    for describe, program in candidates:
        try:
            servers.append(describe(program))
        except NotMeasuredError as error:
            failures.append(str(error))
    return servers, failures


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=daemons.__doc__)
    parser.add_argument(
        "--check", action="store_true", help="only a quick check of lockd against the C floor"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each scene is played (5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one run of calls (0.5)")
    parser.add_argument("--scene", action="append", help="only this scene; may be given several times")
    parser.add_argument("--output", type=Path, help="directory for benchmarks.md, .json and .svg")
    parser.add_argument("--lockd", type=Path, default=Path(sys.executable).with_name("virtlockd"))
    parser.add_argument("--virtlockd", type=Path, default=Path("/usr/sbin/virtlockd"))
    parser.add_argument("--load", type=Path, default=BUILD / "load")
    parser.add_argument("--floor", type=Path, default=BUILD / "floor")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
