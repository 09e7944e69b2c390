"""Make 20,000 random calls to both daemons. `make soak CALLS=1000000 SEED=1` makes more."""

import random
from pathlib import Path

import pytest

from tests.differential.pair import missing, pair_of_daemons
from tests.differential.sequence import Sequence

CALLS = 20_000


@pytest.mark.system
@pytest.mark.parametrize("seed", [1, random.SystemRandom().randrange(2**32)], ids=["known", "new"])
def test_both_daemons_answer_alike(tmp_path: Path, seed: int) -> None:
    if reason := missing():
        pytest.skip(reason)
    print("seed", seed)
    with pair_of_daemons(tmp_path / "pair") as pair:
        sequence = Sequence(pair, seed)
        try:
            sequence.run(CALLS // 2)
            sequence.inspect()
        finally:
            sequence.end()
