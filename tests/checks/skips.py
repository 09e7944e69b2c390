"""A pytest plugin: if CI is set in the environment, a skipped test is a failure unless it is on a list.

The list is ``tests/allowed_skips.txt``: one pattern a line, as the shell has them, for the names of tests, then
``because`` and the reason. Everywhere else, a test whose programs or rights are missing is skipped, and says so.
"""

import fnmatch
import os
from pathlib import Path

import pytest

SEPARATOR = " because "


def allowed_patterns(text: str) -> list[str]:
    """Read a list of allowed skips.

    :param text: what is in the file.
    :returns: the patterns.
    :raises pytest.UsageError: a line has no reason.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    for line in lines:
        if not line.partition(SEPARATOR)[2].strip():
            raise pytest.UsageError(f"allowed skips: {line!r} has no reason: write PATTERN{SEPARATOR}REASON")
    return [line.partition(SEPARATOR)[0].strip() for line in lines]


class Skips:
    """Collects what is skipped, in the process that sees the reports of all others."""

    def __init__(self, allowed: list[str]) -> None:
        self._allowed = allowed
        self._found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that was skipped."""
        if not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a module that was skipped."""
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not any(fnmatch.fnmatchcase(report.nodeid, each) for each in self._allowed):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._found[report.nodeid] = reason

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Make the run fail."""
        if self._found and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was skipped."""
        if self._found:
            terminalreporter.section("skipped, and not in tests/allowed_skips.txt: this fails", red=True)
            for name, reason in sorted(self._found.items()):
                terminalreporter.line(f"{name}: {reason}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the list."""
    parser.addoption(
        "--allowed-skips",
        type=Path,
        default=Path(__file__).parents[1] / "allowed_skips.txt",
        help="a list of tests",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Watch for skips where they are not allowed, in the process that reports."""
    if os.environ.get("CI") and not hasattr(config, "workerinput"):
        file: Path = config.getoption("allowed_skips")
        config.pluginmanager.register(Skips(allowed_patterns(file.read_text())), "skips")
