"""Tests that need the machine for themselves run while no other test does."""

from pathlib import Path

from tests.checks.one_at_a_time import ALONE
from tests.checks.running import PROJECT, run_pytest

SOURCE = """
import time
from pathlib import Path

import pytest

LOG = Path(__file__).with_name("log")

def work(kind):
    with LOG.open("a") as log:
        log.write(f"begin {kind}\\n")
    time.sleep(0.02)
    with LOG.open("a") as log:
        log.write(f"end {kind}\\n")

@pytest.mark.parametrize("number", range(20))
def test_together(number):
    work("together")

@pytest.mark.alone
@pytest.mark.parametrize("number", range(3))
def test_alone(number):
    work("alone")

@pytest.mark.parametrize("number", range(20))
def test_together_again(number):
    work("together")
"""


def test_an_exclusive_test_shares_the_machine_with_no_other(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"test_more_{number}.py").write_text(SOURCE)
    done = run_pytest(tmp_path, SOURCE, "-n", "3", plugin="tests.checks.one_at_a_time")
    assert done.returncode == 0, done.stdout
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 3 * 2 * 43
    begun = [place for place, line in enumerate(log) if line == "begin alone"]
    assert [log[place + 1] for place in begun] == ["end alone"] * 9
    assert all(log[:place].count("begin together") == log[:place].count("end together") for place in begun)
    # The others do run at the same time.
    assert any(log[place : place + 2] == ["begin together"] * 2 for place in range(len(log)))


def test_the_tests_of_a_file_share_a_process(tmp_path: Path) -> None:
    source = """
import os
from pathlib import Path

import pytest

@pytest.mark.parametrize("number", range(20))
def test_numbered(number):
    with Path(__file__).with_suffix(".log").open("a") as log:
        log.write(f"{os.environ['PYTEST_XDIST_WORKER']} {number}\\n")
"""
    (tmp_path / "test_other.py").write_text(source)
    done = run_pytest(tmp_path, source, "-n", "2", plugin="tests.checks.one_at_a_time")
    assert done.returncode == 0, done.stdout
    logs = [log.read_text().splitlines() for log in tmp_path.glob("*.log")]
    assert len(logs) == 2
    for lines in logs:
        workers, numbers = zip(*(line.split() for line in lines), strict=True)
        assert (len(set(workers)), list(numbers)) == (1, [str(number) for number in range(20)])


def test_the_listed_tests_are_there() -> None:
    for name in ALONE:
        file, _, test = name.partition("::")
        assert f"def {test}" in (PROJECT / file).read_text()
