"""Making directories."""

import os
import stat
from pathlib import Path

import pytest

from lockd.linux.directories import make_directories


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "a" / "b" / "c"


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_the_parents_have_the_mode_too(directory: Path, mode: int) -> None:
    before = os.umask(0)
    try:
        make_directories(str(directory), mode)
    finally:
        os.umask(before)
    for made in (directory, directory.parent, directory.parent.parent):
        assert stat.S_IMODE(made.stat().st_mode) == mode


def test_what_is_there_stays_as_it_is(directory: Path) -> None:
    directory.parent.mkdir(parents=True)
    directory.parent.chmod(0o711)
    for _ in range(2):
        make_directories(str(directory), 0o700)
    assert stat.S_IMODE(directory.parent.stat().st_mode) == 0o711


def test_a_file_in_the_way_is_an_error(directory: Path) -> None:
    directory.parent.mkdir(parents=True)
    directory.touch()
    for path in (directory, directory / "below"):
        with pytest.raises(NotADirectoryError):
            make_directories(str(path), 0o700)
