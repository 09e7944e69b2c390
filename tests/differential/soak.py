"""Make any number of random calls to both daemons: python -m tests.differential.soak CALLS [SEED]."""

import random
import sys
import tempfile
import time
from pathlib import Path

from tests.differential.pair import missing, pair_of_daemons
from tests.differential.sequence import Difference, Sequence

_CALLS_BETWEEN_REPORTS = 50_000


def main() -> None:
    """Make the given number of calls, or stop at a difference; print how often each outcome occurred."""
    if reason := missing():
        sys.exit(reason)
    calls = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    print(f"{calls} calls, seed {seed}", flush=True)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="lockd-") as directory,
        pair_of_daemons(Path(directory, "pair")) as pair,
    ):
        sequence = Sequence(pair, seed)
        try:
            while sequence.calls < calls:
                sequence.run(min(calls, sequence.calls + _CALLS_BETWEEN_REPORTS))
                sequence.inspect()
                print(f"{sequence.calls} calls, {time.monotonic() - begun:.0f} s: no difference", flush=True)
        except Difference as difference:
            sys.exit(str(difference))
        finally:
            sequence.end()
        for (procedure, code, form), count in sorted(sequence.outcomes.items()):
            print(f"{count:9} procedure {procedure:<10} code {code:<3} {form}")


if __name__ == "__main__":
    main()
