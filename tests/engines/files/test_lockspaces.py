"""Lockspaces as directories: the paths of resources, and the files and directories that are made for them."""

import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from lockd.engines.files.inodes import Inodes
from lockd.engines.files.lockspaces import create_file, delete_file, make_lockspace_directory, path_of
from lockd.locks.errors import InvalidName, LockError, NotADirectory, SystemCallFailed
from lockd.locks.resource import DIRECT


@pytest.fixture
def inodes() -> Inodes:
    return Inodes()


@pytest.mark.parametrize(
    ("lockspace", "name"),
    [
        (DIRECT, ""), (DIRECT, "disk"), (DIRECT, "./disk"), (DIRECT, "/disk\0"),
        ("/leases", ""), ("/leases", "."), ("/leases", ".."), ("/leases", "../disk"), ("/leases", "/disk"),
        ("/leases", "a/b"), ("/leases", "\0"),
    ],
)  # fmt: skip
def test_names_that_virtlockd_takes_for_something_else_are_refused(lockspace: str, name: str) -> None:
    with pytest.raises(InvalidName):
        path_of(lockspace, name)


def test_the_file_of_a_resource_is_in_its_lockspace() -> None:
    assert path_of(DIRECT, "/images/../disk") == "/images/../disk"
    assert path_of("/leases", "...") == "/leases/..."


def test_the_directory_of_a_lockspace_is_made_with_its_parents(tmp_path: Path) -> None:
    """Only the daemon's user may enter them, as with virtlockd."""
    path = tmp_path / "a" / "b" / "leases"
    for _ in range(2):
        make_lockspace_directory(str(path))
        for made in (path, path.parent, path.parent.parent):
            assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_a_lockspace_may_be_a_link_to_a_directory(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "link").symlink_to("leases")
    make_lockspace_directory(str(tmp_path / "link"))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("file", NotADirectory, "Lockspace location {} exists, but is not a directory"),
        ("file/leases", SystemCallFailed, "Unable to create lockspace {}: Not a directory"),
        ("dangling", SystemCallFailed, "Unable to create lockspace {}: Not a directory"),
        ("dangling/leases", SystemCallFailed, "Unable to create lockspace {}: No such file or directory"),
    ],
)
def test_a_lockspace_that_cannot_be_made_is_named(
    tmp_path: Path, name: str, error: type[LockError], message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("missing")
    with pytest.raises(error) as caught:
        make_lockspace_directory(str(tmp_path / name))
    assert str(caught.value) == message.format(tmp_path / name)


def test_no_directory_is_made_where_a_link_leads_that_replaces_one_just_made(tmp_path: Path) -> None:
    """Otherwise whoever may write to a parent would have root make directories elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    replaced: list[Path] = []

    def replace(event: str, arguments: tuple[object, ...]) -> None:
        made = tmp_path / "a"
        if event == "os.mkdir" and arguments[0] == "b" and not replaced:
            replaced.append(made)
            made.rename(tmp_path / "old")
            made.symlink_to("elsewhere")

    sys.addaudithook(replace)
    make_lockspace_directory(str(tmp_path / "a" / "b" / "leases"))
    assert replaced
    assert list(elsewhere.iterdir()) == []
    assert (tmp_path / "old" / "b" / "leases").is_dir()


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """Though each of its directories could be made in its parent."""
    path = str(tmp_path) + ("/" + "x" * 200) * 21
    with pytest.raises(SystemCallFailed, match="File name too long"):
        make_lockspace_directory(path)


@pytest.mark.parametrize("path", ["", "leases", "./leases", "/leases\0/x"])
def test_a_lockspace_has_an_absolute_path(path: str) -> None:
    with pytest.raises(InvalidName):
        make_lockspace_directory(path)


def test_lease_files_are_made_and_removed(inodes: Inodes, tmp_path: Path) -> None:
    path = path_of(str(tmp_path), "x")
    for _ in range(2):
        create_file(inodes, path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    for _ in range(2):
        delete_file(inodes, path, "x")
        assert not os.path.exists(path)


def test_what_cannot_be_made_or_removed_is_named(inodes: Inodes, tmp_path: Path) -> None:
    path = str(tmp_path / "directory")
    os.mkdir(path)
    with pytest.raises(SystemCallFailed, match=f"cannot create file '{path}': Is a directory") as caught:
        create_file(inodes, path)
    assert caught.value.creating_file
    with pytest.raises(SystemCallFailed, match=f"{path}: Is a directory"):
        delete_file(inodes, path, "x")


def test_a_pipe_is_not_opened(inodes: Inodes, tmp_path: Path) -> None:
    """That would wait for a reader, or wake up a writer."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SystemCallFailed, match="it is a pipe") as caught:
        create_file(inodes, str(tmp_path / "pipe"))
    assert caught.value.errno == errno.ENOTBLK
