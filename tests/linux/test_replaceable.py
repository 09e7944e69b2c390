"""Who can have a path lead to another file."""

import os
from pathlib import Path

import pytest

from lockd.linux.replaceable import others_can_replace

NOBODY = 65534


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file in a directory in a directory of this process's user."""
    path = tmp_path / "images" / "vm" / "disk"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_nobody_else_can_replace_what_is_in_our_directories(disk: Path) -> None:
    assert not others_can_replace(str(disk))
    assert not others_can_replace(f"{disk.parent}/../vm/./disk")


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
@pytest.mark.parametrize("level", [0, 1])
def test_who_can_write_to_a_directory_on_the_way_can_replace_it(disk: Path, level: int, mode: int) -> None:
    disk.parents[level].chmod(mode)
    assert others_can_replace(str(disk))


def test_in_a_sticky_directory_others_replace_their_own_alone(disk: Path) -> None:
    disk.parents[1].chmod(0o1777)
    assert not others_can_replace(str(disk))
    disk.parents[1].chmod(0o755)
    disk.parent.chmod(0o1777)
    assert others_can_replace(str(disk)), "they may own the file itself"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving away a directory needs root")
@pytest.mark.parametrize("level", [0, 1])
def test_an_owner_can_replace_what_is_in_their_directory(disk: Path, level: int) -> None:
    os.chown(disk.parents[level], NOBODY, NOBODY)
    assert others_can_replace(str(disk))


def test_the_way_goes_through_links(disk: Path) -> None:
    elsewhere = disk.parents[2] / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to("../images/vm")
    (disk.parents[2] / "link to link").symlink_to(elsewhere / "link")
    path = f"{disk.parents[2]}/link to link/disk"
    assert not others_can_replace(path)
    elsewhere.chmod(0o777)
    assert others_can_replace(path)
    elsewhere.chmod(0o755)
    disk.parent.chmod(0o777)
    assert others_can_replace(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving away a link needs root")
def test_the_owner_of_a_link_can_replace_it(disk: Path) -> None:
    link = disk.parents[1] / "link"
    link.symlink_to("vm")
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    assert others_can_replace(f"{link}/disk")


def test_what_cannot_be_known_may_be_replaced(disk: Path) -> None:
    assert others_can_replace(f"{disk.parent}/missing/disk")
    (disk.parent / "loop").symlink_to("loop")
    assert others_can_replace(f"{disk.parent}/loop/disk")
