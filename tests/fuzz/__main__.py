"""Send random frames to a daemon: python -m tests.fuzz [--frames 100000] [--seed SEED]. Needs root."""

import argparse
import random
import shlex
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.confinement import confine, run_confined
from tests.fuzz.connections import Outcome
from tests.fuzz.life import life
from tests.fuzz.oracle import Finding
from tests.private_daemon import LOCKD

_FRAMES_OF_LIFE = 20_000
"""After so many frames a new daemon is started, so that a finding can be repeated with few."""


def main() -> int:
    """Confine this program, and send frames there; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--frames", type=int, default=100_000, help="how many frames to send (default: 100000)"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument(
        "--program", default=str(LOCKD), help="the command of the daemon, if it is not this lockd"
    )
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scratch is not None:
        confine(options.scratch)
        return _fuzz(options.frames, options.seed, options.program, options.scratch)
    with tempfile.TemporaryDirectory(prefix="lockd-") as scratch:
        again = ["--frames", str(options.frames), "--seed", str(options.seed), "--program", options.program]
        return run_confined([sys.executable, "-m", "tests.fuzz", *again, "--scratch", scratch])


def _fuzz(frames: int, seed: int, program: str, scratch: Path) -> int:
    """Fuzz one daemon after the other, each with the next seed, until there were so many frames."""
    print(f"{frames} frames, seed {seed}", flush=True)
    begun = time.monotonic()
    sent = daemons = upgrades = 0
    outcomes: Counter[Outcome] = Counter()
    while sent < frames:
        number = min(_FRAMES_OF_LIFE, frames - sent)
        with life(scratch / "life", shlex.split(program), random.Random(seed)) as one:
            try:
                one.run(number)
            except Finding as finding:
                print(
                    f"{one.last_frames()}\n{finding}\nThis was found after {one.sent} frames. It is repeated by:"
                )
                words = ["python", "-m", "tests.fuzz", "--frames", str(number), "--seed", str(seed)]
                print(shlex.join([*words, *(["--program", program] if program != str(LOCKD) else [])]))
                return 1
        sent += one.sent
        daemons += 1
        upgrades += one.upgrades
        seed += 1
        outcomes += one.outcomes
        seconds = time.monotonic() - begun
        print(
            f"{sent} frames, {daemons} daemons, {upgrades} upgrades, {seconds:.0f} s: nothing found",
            flush=True,
        )
    for (number, procedure, code), count in sorted(outcomes.items()):
        if count > sent / 1000:
            print(f"{count:9} program {number:#010x} procedure {procedure:<10} code {code}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
