"""Each row of docs/compatibility.md names the test that checks it."""

import re
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def rows() -> list[str]:
    """Return the rows of the tables that name tests."""
    page = (PROJECT / "docs" / "compatibility.md").read_text()
    purposes = page.partition("## Differences on purpose")[2].partition("## Who holds it")[0]
    return [line for line in purposes.splitlines() if line.startswith("| ") and "| test |" not in line]


def test_each_row_names_a_test_that_is_there() -> None:
    assert len(rows()) > 20
    for row in rows():
        named = re.search(r"`(tests/\S+\.py)::(test_\w+)` \|$", row)
        assert named, f"no test: {row}"
        assert f"def {named[2]}(" in (PROJECT / named[1]).read_text(), f"no such test: {row}"


def test_each_difference_that_is_tested_has_a_row() -> None:
    """Tests of virtlockd's behaviour need no row: the test of lockd beside them has it."""
    page = "\n".join(rows())
    for module in (PROJECT / "tests" / "differences").glob("test_*.py"):
        for name in re.findall(r"^def (test_(?!virtlockd)\w+)", module.read_text(), re.MULTILINE):
            assert f"{module.relative_to(PROJECT)}::{name}`" in page, f"no row for {name}"
