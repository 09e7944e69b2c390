"""Continuous integration fails where a test is skipped that is not on the list."""

from pathlib import Path

import pytest

from tests.checks.running import run_pytest
from tests.checks.skips import allowed_patterns

PLUGIN = "tests.checks.skips"
ONE_SKIPPED = """
import pytest

def test_that_runs():
    pass

@pytest.mark.parametrize("disk", ["a"])
def test_that_is_skipped(disk):
    pytest.skip("QEMU is not installed")
"""
MODULE_SKIPPED = 'import pytest\n\npytest.skip("no such system", allow_module_level=True)\n'


@pytest.fixture(params=["-p no:xdist", "-n 2"], ids=["in one process", "in two"])
def processes(request: pytest.FixtureRequest) -> list[str]:
    options: str = request.param
    return options.split()


@pytest.mark.parametrize(
    ("source", "reason"), [(ONE_SKIPPED, "QEMU is not installed"), (MODULE_SKIPPED, "no such system")]
)
def test_a_skip_fails_where_ci_is_set(tmp_path: Path, processes: list[str], source: str, reason: str) -> None:
    done = run_pytest(tmp_path, source, *processes, plugin=PLUGIN, CI="true")
    assert done.returncode == 1, done.stdout
    assert "not in tests/allowed_skips.txt" in done.stdout
    assert reason in done.stdout
    assert "1 skipped" in done.stdout.splitlines()[-1]


def test_a_skip_is_allowed_elsewhere(tmp_path: Path, processes: list[str]) -> None:
    done = run_pytest(tmp_path, ONE_SKIPPED, *processes, plugin=PLUGIN)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("test_module.py::test_that_is_skipped* because there is no QEMU", 0),
        ("*::test_another because there is no QEMU", 1),
        ("test_module.py::test_that_is_skipped*", 4),
    ],
    ids=["listed", "not listed", "no reason"],
)
def test_the_list_counts(tmp_path: Path, processes: list[str], line: str, status: int) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(f"# allowed\n{line}\n")
    option = f"--allowed-skips={allowed}"
    done = run_pytest(tmp_path, ONE_SKIPPED, option, *processes, plugin=PLUGIN, CI="true")
    assert done.returncode == status, done.stdout + done.stderr


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    source = "import pytest\n\n@pytest.mark.xfail\ndef test_that_fails():\n    assert False\n"
    assert run_pytest(tmp_path, source, plugin=PLUGIN, CI="true").returncode == 0


def test_the_project_s_own_list_can_be_read() -> None:
    allowed_patterns(Path(__file__).parents[1].joinpath("allowed_skips.txt").read_text())
