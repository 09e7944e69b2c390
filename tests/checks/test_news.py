"""A change of the program has a file in changes/."""

from pathlib import Path

import pytest

from scripts import check_news
from tests.checks.conftest import Clone
from tests.checks.running import PROJECT

TYPES = {"added", "fixed", "security"}
MODULE = "lockd/__init__.py"
NEWS = "changes/+something.fixed.md"


def change(clone: Clone, file: str = MODULE) -> None:
    path = clone.directory / file
    path.write_text(path.read_text() + "\n# changed\n")


def check(clone: Clone) -> str:
    """What the check finds, and nothing where all is well."""
    done = clone.run("check_news")
    assert done.returncode == bool(done.stderr)
    return done.stderr


def test_this_change_has_one() -> None:
    assert check_news.main(PROJECT) == 0


@pytest.mark.parametrize(
    ("file", "committed"),
    [
        (MODULE, False),
        (MODULE, True),
        ("conf/virtlockd.conf", True),
        ("systemd/system/virtlockd.service", True),
    ],
)
def test_a_changed_program_needs_a_file(clone: Clone, file: str, committed: bool) -> None:
    assert check(clone) == ""
    change(clone, file)
    if committed:
        clone.commit()
    assert "add a file" in check(clone)
    clone.write(NEWS, "It works.\n")
    assert check(clone) == ""


def test_anything_else_needs_none(clone: Clone) -> None:
    change(clone, "README.md")
    clone.commit()
    assert check(clone) == ""


@pytest.mark.parametrize("tagged", [False, True])
def test_after_a_release_a_file_is_needed_anew(clone: Clone, tagged: bool) -> None:
    change(clone)
    for file in (clone.directory / "changes").glob("*.*.md"):
        file.unlink()
    changelog = clone.directory / "CHANGELOG.md"
    changelog.write_text(changelog.read_text() + "\n## [9.9.9] - 2030-01-01\n")
    clone.commit()
    if tagged:
        clone.git("tag", "v9.9.9")
    assert check(clone) == ""
    change(clone)
    clone.commit()
    assert "add a file" in check(clone)
    clone.write(NEWS, "It works.\n")
    assert check(clone) == ""


def test_a_shallow_clone_is_no_error(clone: Clone, tmp_path: Path) -> None:
    change(clone)
    clone.write(NEWS, "It works.\n")
    clone.commit()
    shallow = tmp_path / "shallow"
    clone.git("clone", "--quiet", "--depth=1", clone.directory.as_uri(), str(shallow))
    clone.directory = shallow
    assert check(clone) == ""


@pytest.mark.parametrize(
    ("name", "text", "mistake"),
    [
        ("13.fixed.md", "", "it is empty"),
        ("13.fixed.md", "One. Two. Three. Four. Five.", "one to 4 sentences"),
        ("13.fixed.md", "No end", "one to 4 sentences"),
        ("13.fixed.md", "- It works.", "without a list or a heading"),
        ("13.fixed.md", "# It works.", "without a list or a heading"),
        ("13.new.md", "It works.", "the type 'new' is none of"),
        ("fixed.md", "It works.", "the name must be"),
        ("13.fixed.txt", "It works.", "the name must be"),
    ],
)
def test_a_file_has_a_form(name: str, text: str, mistake: str) -> None:
    assert any(mistake in each for each in check_news.mistakes(name, text, TYPES))


def test_a_file_of_another_form_fails(clone: Clone) -> None:
    clone.write("changes/13.new.md", "It works.")
    assert "changes/13.new.md: the type 'new' is none of" in check(clone)


@pytest.mark.parametrize("name", ["13.fixed.md", "+two-words.security.md", "13.added.2.md"])
def test_files_that_are_well_formed(name: str) -> None:
    assert not check_news.mistakes(
        name, "`lockctl who` names\nthe host (1.5 times as fast). It works.\n", TYPES
    )
