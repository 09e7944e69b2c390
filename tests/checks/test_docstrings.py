"""``make lint-docstrings`` holds public functions with arguments, and nothing else."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest

PROJECT = Path(__file__).parents[2]

COMPLETE = '''
def acquire(path: str, *names: str, shared: bool = False) -> int:
    """Lock a file.

    :param path: the file, absolute.
    :param names: other names of the file.
    :param shared: whether others may hold it, too.
    :returns: the descriptor, to be closed by the caller.
    :raises Busy: somebody else holds it.
    :raises OSError: it cannot be opened.
    """
    if shared:
        raise Busy
    return len(path) + len(names)
'''


def check(folder: Path, source: str) -> str:
    """What the check says about a module."""
    module = folder / "module.py"
    module.write_text(dedent(source))
    command = [sys.executable, str(PROJECT / "scripts/check_docstrings.py"), str(module)]
    checked = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert checked.returncode == bool(checked.stdout), checked.stderr
    return checked.stdout


def test_complete_documentation_passes(tmp_path: Path) -> None:
    assert check(tmp_path, COMPLETE) == ""


@pytest.mark.parametrize(
    ("missing", "code"),
    [("path", "DOC103"), ("names", "DOC103"), ("returns", "DOC201"), ("raises Busy", "DOC503")],
)
def test_each_missing_field_is_found(tmp_path: Path, missing: str, code: str) -> None:
    lines = COMPLETE.splitlines(keepends=True)
    said = check(tmp_path, "".join(line for line in lines if f"{missing}:" not in line or "def" in line))
    assert "module.py:2:" in said
    assert code in said


def test_one_line_is_not_enough_for_a_public_function_with_arguments(tmp_path: Path) -> None:
    said = check(tmp_path, 'def acquire(path: str) -> int:\n    """Lock a file."""\n    return len(path)\n')
    assert "DOC103" in said
    assert "DOC201" in said


def test_a_generator_says_what_it_yields(tmp_path: Path) -> None:
    source = '''
    from collections.abc import Iterator

    def mounts(path: str) -> Iterator[str]:
        """Find the mounts of a path.

        :param path: a directory.
        {}
        """
        yield path
    '''
    assert check(tmp_path, source.format(":yields: each mount point.")) == ""
    assert "DOC402" in check(tmp_path, source.format(":returns: the mount points."))


@pytest.mark.parametrize(
    "exempt",
    [
        'def _acquire(path: str) -> int:\n    """Lock a file."""\n    return len(path)',
        'class _Lock:\n    """A lock."""\n\n    def take(self, path: str) -> int:\n        """Take it."""\n        return 1',
        'class Lock:\n    """A lock."""\n\n    def __eq__(self, other: object) -> bool:\n        return True',
        'class Lock:\n    """A lock."""\n\n    def __init__(self, path: str) -> None:\n        self.path = path',
        'class Lock:\n    """A lock."""\n\n    def holders(self) -> list[int]:\n        """Who holds it."""\n        return []',
        'class Lock:\n    """A lock."""\n\n    @property\n    def path(self) -> str:\n        """Its file."""\n        return ""',
        'def holders() -> list[int]:\n    """Who holds it."""\n    raise OSError',
    ],
    ids=[
        "private",
        "in private class",
        "special",
        "constructor",
        "without arguments",
        "property",
        "no arguments",
    ],
)
def test_others_need_a_docstring_only(tmp_path: Path, exempt: str) -> None:
    assert check(tmp_path, exempt) == ""


def test_a_parameter_that_is_gone_is_found_everywhere(tmp_path: Path) -> None:
    said = check(
        tmp_path,
        'def _lock(path: str) -> None:\n    """Lock.\n\n    :param path: it.\n    :param name: gone.\n    """',
    )
    assert "name" in said


def test_a_method_inherits_the_documentation_of_a_public_base_class(tmp_path: Path) -> None:
    source = indent(COMPLETE.replace("(path", "(self, path"), "    ")
    child = 'class Disk({}):\n    """A disk."""\n\n    def acquire(self, path: str) -> int:\n        """Lock it."""\n        return 1\n'
    base = f'class Engine:\n    """An engine."""\n{source}\n\n'
    assert check(tmp_path, base + child.format("Engine")) == ""
    assert "DOC103" in check(tmp_path, base + child.format("object"))


@pytest.mark.parametrize(
    ("documented", "passes"),
    [("NotHeld", True), ("LockError", True), ("Exception", True), ("OSError", False)],
)
def test_an_exception_may_be_documented_by_its_base_class(
    tmp_path: Path, documented: str, passes: bool
) -> None:
    source = f'''
    class LockError(Exception):
        """A lock cannot be had."""

    class NotHeld(LockError):
        """It is not held."""

    def release(path: str) -> None:
        """Release a lock.

        :param path: the file.
        :raises {documented}: it is not held.
        """
        raise NotHeld(path)
    '''
    assert ("DOC503" not in check(tmp_path, source)) == passes


def test_what_is_raised_again_after_cleaning_up_is_not_the_functions_own(tmp_path: Path) -> None:
    source = '''
    def take(path: str) -> None:
        """Take a lock.

        :param path: the file.
        """
        try:
            print(path)
        except BaseException:
            print("cleaned up")
            raise
    '''
    assert check(tmp_path, source) == ""
