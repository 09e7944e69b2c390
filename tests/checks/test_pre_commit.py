"""The checks before a commit are those of ``make lint``."""

import subprocess
import sys
from pathlib import Path

from tests.checks.running import PROJECT


def test_pre_commit_understands_its_configuration() -> None:
    program = Path(sys.prefix, "bin", "pre-commit")
    subprocess.run([program, "validate-config"], cwd=PROJECT, check=True)


def test_every_check_of_make_lint_is_there() -> None:
    hooks = (PROJECT / ".pre-commit-config.yaml").read_text()
    for check in (
        "ruff check",
        "ruff format --check",
        "mypy",
        "scripts.check_news",
        "scripts.check_docstrings",
    ):
        assert check in hooks
        assert check in (PROJECT / "Makefile").read_text()
