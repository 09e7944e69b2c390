"""Look for rare errors for a given time: random calls, live upgrades under load, fuzzing, faults.

Each part is repeated in rounds until its share of the time is over. Each round prints the command that repeats it,
with its seed. A part ends with its first failure, and the other parts go on. The last lines say what each part has done,
and which ones failed. Fault injection plays each of its points once, which takes longer than its share of an hour.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SEED = "SEED"
"""Placeholder for the seed of a round in a command."""

_COUNTED = re.compile(r"\d+ (calls|frames|points|upgrades|passed|failed)\b")


@dataclass(frozen=True)
class Part:
    """A command that is repeated in rounds.

    :ivar name: what it tests.
    :ivar share: its share of the whole time, from 0 to 1.
    :ivar command: the arguments for Python.
    :ivar environment: further environment variables.
    """

    name: str
    share: float
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


_PYTEST = ("-m", "pytest", "--quiet", f"--hypothesis-seed={SEED}")

PARTS = (
    Part(
        "random calls to lockd and virtlockd, compared",
        0.15,
        ("-m", "tests.differential.soak", "300000", SEED),
    ),
    Part(
        "live upgrades under load", 0.15, (*_PYTEST, "tests/handover/test_load.py"), {"LOCKD_UPGRADES": "500"}
    ),
    Part(
        "fuzzing: random frames to a confined daemon",
        0.2,
        ("-m", "tests.fuzz", "--frames", "10000000", "--seed", SEED),
    ),
    Part(
        "fuzzing: what comes from a socket, a file, a sequence of calls",
        0.15,
        (
            *_PYTEST,
            "tests/wire",
            "tests/robustness",
            "tests/locks/test_table_machine.py",
            "tests/engines/files/test_slow_mounts.py",
        ),
        {"HYPOTHESIS_PROFILE": "nightly", "LOCKD_CROWD": "1"},
    ),
    Part(
        "faults: hung file systems, dying owners, refused upgrades, calls that overtake each other",
        0.1,
        (
            *_PYTEST,
            "tests/trouble",
            "tests/handover/test_refused.py",
            "tests/engines/files/test_interleavings.py",
            "tests/differential/test_failing_files.py",
        ),
        {"LOCKD_ERRORS": "all"},
    ),
    Part(
        "fault injection: every system call fails, or hangs, at each of its calls",
        0.25,
        ("-m", "tests.faults"),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a part.

    :ivar part: the part.
    :ivar passed: whether no round failed.
    :ivar done: how much each round has done, in its own words.
    """

    part: Part
    passed: bool
    done: list[str]

    def __str__(self) -> str:
        name = f"{'passed' if self.passed else 'FAILED'}  {self.part.name}"
        return "\n".join([name, *(f"        {line}" for line in self.done)])


def play(part: Part, seconds: float, seeds: random.Random) -> Outcome:
    """Repeat a part until it fails or its time is over.

    :param part: the part.
    :param seconds: its time. A round that has begun is finished.
    :param seeds: makes the seed of each round.
    :returns: what came of it.
    """
    end = time.monotonic() + seconds
    done = []
    print(f"\n=== {part.name}: {seconds / 60:.0f} minutes", flush=True)
    while True:
        seed = str(seeds.randrange(2**32))
        command = [sys.executable, *(word.replace(SEED, seed) for word in part.command)]
        settings = " ".join(f"{name}={value}" for name, value in part.environment.items())
        print(f"--- {settings} {' '.join(command)}".replace("  ", " "), flush=True)
        status, what = _run(command, part.environment)
        done.append(what)
        if status != 0:
            return Outcome(part, passed=False, done=done)
        if time.monotonic() >= end:
            return Outcome(part, passed=True, done=done)


def _run(command: list[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a command. Return its exit status, and the last line of its output that says how many there were of each."""
    counts: dict[str, str] = {}
    settings = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    with subprocess.Popen(
        command, cwd=PROJECT, env=settings, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if (match := _COUNTED.match(line)) is not None:
                counts[match[1]] = line.strip()
    return process.returncode, "; ".join(counts.values()) or "it does not say what it has done"


def main(parts: tuple[Part, ...] = PARTS) -> int:
    """Play all parts.

    :param parts: the parts.
    :returns: the exit status: 1 if a part failed.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="how long all of it takes (default: 60)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    seeds = random.Random(options.seed)
    outcomes = [play(part, part.share * options.minutes * 60, seeds) for part in parts]
    print("", *outcomes, sep="\n")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
