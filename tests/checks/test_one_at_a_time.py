"""Tests that need the machine for themselves run while no other test does."""

from pathlib import Path

from tests.checks.one_at_a_time import ALONE
from tests.checks.running import PROJECT, run_pytest

SOURCE = """
import time
from pathlib import Path

import pytest

LOG = Path(__file__).with_name("log")

def spread(count):
    # A group of its own for each test: any process may run it.
    return [pytest.param(number, marks=pytest.mark.xdist_group(str(number))) for number in range(count)]

def work(kind):
    with LOG.open("a") as log:
        log.write(f"begin {kind}\\n")
    time.sleep(0.02)
    with LOG.open("a") as log:
        log.write(f"end {kind}\\n")

@pytest.mark.parametrize("number", spread(20))
def test_together(number):
    work("together")

@pytest.mark.alone
@pytest.mark.parametrize("number", spread(3))
def test_alone(number):
    work("alone")

@pytest.mark.parametrize("number", spread(20))
def test_together_again(number):
    work("together")
"""


def test_an_exclusive_test_shares_the_machine_with_no_other(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, SOURCE, "-n", "3", "--dist", "loadgroup", plugin="tests.checks.one_at_a_time")
    assert done.returncode == 0, done.stdout
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 2 * 43
    begun = [place for place, line in enumerate(log) if line == "begin alone"]
    assert [log[place + 1] for place in begun] == ["end alone"] * 3
    assert all(log[:place].count("begin together") == log[:place].count("end together") for place in begun)


def test_the_listed_tests_are_there() -> None:
    for name in ALONE:
        file, _, test = name.partition("::")
        assert f"def {test}" in (PROJECT / file).read_text()
