"""``make nightly`` goes on after a part that fails, and says how to repeat it."""

import random
import sys
from pathlib import Path

import pytest

from scripts import nightly
from scripts.nightly import SEED, Part


def python(text: str) -> tuple[str, ...]:
    return ("-c", text, SEED)


def test_the_others_go_on_when_one_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nightly", "--minutes", "0", "--seed", "5"])
    parts = (
        Part("first", 0.5, python("print('12 points\\n34 points, 0 findings\\none')")),
        Part("second", 0.2, python("raise SystemExit(3)")),
        Part("third", 0.3, python("import os, sys; print(os.environ['MANY'], sys.argv)"), {"MANY": "9"}),
    )
    assert nightly.main(parts) == 1
    output = capfd.readouterr().out
    seeds = random.Random(5)
    first, _, third = (seeds.randrange(2**32) for _ in parts)
    assert "seed 5\n" in output
    assert f"one') {first}\n" in output
    assert f"9 ['-c', '{third}']\n" in output
    nothing = "        it does not say what it has done\n"
    assert output.endswith(
        f"passed  first\n        34 points, 0 findings\nFAILED  second\n{nothing}passed  third\n{nothing}"
    )


def test_a_part_is_played_again_until_its_time_is_over(capfd: pytest.CaptureFixture[str]) -> None:
    outcome = nightly.play(Part("short", 1, python("print('round')")), 3, random.Random())
    assert outcome.passed
    assert len(outcome.done) > 1
    assert capfd.readouterr().out.count("\nround\n") > 1


def test_all_is_well_where_all_parts_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nightly", "--minutes", "0"])
    assert nightly.main((Part("first", 1, python("")),)) == 0


def test_the_shares_are_the_whole_time() -> None:
    assert sum(part.share for part in nightly.PARTS) == pytest.approx(1)


def test_the_tests_that_it_names_exist() -> None:
    named = [word for part in nightly.PARTS for word in part.command if word.startswith("tests/")]
    assert named
    assert not [name for name in named if not Path(nightly.PROJECT, name).exists()]
