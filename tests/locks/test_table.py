"""The lock table's decisions: what they say, and states that a worker thread's calls pass through."""

import errno
import os
import stat
from pathlib import Path

import pytest

from lockd.locks import posix
from lockd.locks.errors import (
    Busy,
    DirectLockspaceExists,
    InvalidName,
    LockError,
    LockspaceExists,
    NotADirectory,
    NotHeld,
    NotOwner,
    SystemCallFailed,
    UnknownLockspace,
)
from lockd.locks.resource import Resource, State
from lockd.locks.table import DIRECT, LockTable, create_file, delete_file, make_lockspace_directory, path_of
from tests.kernel_locks import KernelLock, locks_on


@pytest.fixture
def table(tmp_path: Path) -> LockTable:
    """A table with one lockspace, the test's directory."""
    table = LockTable()
    table.add_lockspace(str(tmp_path))
    return table


def reserve(table: LockTable, lockspace: str, name: str, owner: int = 1, *, shared: bool = False) -> Resource:
    resource = table.reserve(lockspace, name, owner, shared=shared, autocreate=True)
    assert resource is not None
    return resource


def acquire(table: LockTable, lockspace: str, name: str, owner: int = 1, *, shared: bool = False) -> Resource:
    resource = reserve(table, lockspace, name, owner, shared=shared)
    resource.take(table.inodes)
    table.grant(resource)
    return resource


def release(table: LockTable, resource: Resource, owner: int = 1) -> None:
    assert table.end_holding(resource.lockspace, resource.name, owner) is resource
    resource.drop(table.inodes)
    table.forget(resource)


def test_a_resource_is_reserved_from_when_it_is_asked_for(table: LockTable, tmp_path: Path) -> None:
    """The kernel's lock comes later, from a worker thread perhaps: nobody else is told otherwise meanwhile."""
    resource = reserve(table, str(tmp_path), "x", shared=True)
    assert resource.state is State.ACQUIRING
    assert table.find(str(tmp_path), "x") is resource
    for shared in (False, True):
        with pytest.raises(Busy, match="Lockspace resource 'x' is locked") as caught:
            table.reserve(str(tmp_path), "x", 2, shared=shared, autocreate=True)
        assert caught.value.holder is resource
    with pytest.raises(NotHeld, match="Lockspace resource 'x' is not locked"):
        table.end_holding(str(tmp_path), "x", 1)
    assert table.end_holdings(1) == []
    with pytest.raises(Busy):
        table.check_free(str(tmp_path), "x")
    table.forget(resource)
    assert (len(table), table.holdings(1)) == (0, [])


def test_a_resource_is_busy_until_its_lock_has_ended(table: LockTable, tmp_path: Path) -> None:
    resource = acquire(table, str(tmp_path), "x", shared=True)
    assert table.end_holdings(1) == [resource]
    assert resource.state is State.RELEASING
    assert table.end_holdings(1) == []
    with pytest.raises(NotHeld):
        table.end_holding(str(tmp_path), "x", 1)
    with pytest.raises(Busy):
        table.reserve(str(tmp_path), "x", 2, shared=True, autocreate=True)
    resource.drop(table.inodes)
    table.forget(resource)
    release(table, acquire(table, str(tmp_path), "x"))


def test_holdings_are_counted_for_each_owner(table: LockTable, tmp_path: Path) -> None:
    lockspace = str(tmp_path)
    resource = acquire(table, lockspace, "x", 1, shared=True)
    for owner in (1, 2):
        assert table.reserve(lockspace, "x", owner, shared=True, autocreate=False) is None
    assert resource.owners == {1: 2, 2: 1}
    assert table.holdings(2) == [resource]
    with pytest.raises(NotOwner, match="does not hold the resource lock"):
        table.end_holding(lockspace, "x", 3)
    assert table.end_holding(lockspace, "x", 1) is None
    assert table.end_holding(lockspace, "x", 1) is None
    assert (table.holdings(1), resource.owners) == ([], {2: 1})
    assert locks_on(tmp_path / "x") == [KernelLock("READ", os.getpid())]
    release(table, resource, 2)
    assert not (tmp_path / "x").exists()


def test_an_owners_death_ends_its_holdings_alone(table: LockTable, tmp_path: Path) -> None:
    lockspace = str(tmp_path)
    own = acquire(table, lockspace, "own", 1)
    shared = acquire(table, lockspace, "shared", 1, shared=True)
    table.reserve(lockspace, "shared", 1, shared=True, autocreate=True)
    table.reserve(lockspace, "shared", 2, shared=True, autocreate=True)
    on_its_way = reserve(table, lockspace, "slow", 1)
    assert table.end_holdings(1) == [own]
    assert shared.owners == {2: 1}
    assert table.holdings(1) == [own, on_its_way]
    assert {resource.name for resource in table} == {"own", "shared", "slow"}
    for resource in (own, on_its_way):
        resource.drop(table.inodes)
        table.forget(resource)
    release(table, shared, 2)
    assert table.holdings(1) == []


def test_a_resource_that_could_not_be_had_is_forgotten(table: LockTable, tmp_path: Path) -> None:
    resource = reserve(table, DIRECT, str(tmp_path / "missing" / "x"))
    with pytest.raises(SystemCallFailed):
        resource.take(table.inodes)
    table.forget(resource)
    assert not len(table)
    assert not table.holdings(1)


def test_lockspaces_are_known_by_their_paths(table: LockTable, tmp_path: Path) -> None:
    assert table.lockspaces == [str(tmp_path)]
    table.check_new_lockspace("/another")
    with pytest.raises(LockspaceExists, match=f"Lockspace for path {tmp_path} already exists"):
        table.check_new_lockspace(str(tmp_path))
    with pytest.raises(DirectLockspaceExists, match="the default lockspace already exists"):
        table.check_new_lockspace(DIRECT)
    resource = acquire(table, str(tmp_path), "x")
    table.add_lockspace(str(tmp_path))
    assert table.find(str(tmp_path), "x") is resource
    release(table, resource)
    for call in (table.find, table.check_free):
        with pytest.raises(UnknownLockspace, match="Lockspace for path /unknown does not exist"):
            call("/unknown", "x")


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


def test_a_resources_file_is_in_its_lockspace() -> None:
    assert path_of(DIRECT, "/images/../disk") == "/images/../disk"
    assert path_of("/leases", "...") == "/leases/..."


def test_a_lockspaces_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    """All of them for the daemon's user alone, as virtlockd makes them."""
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


@pytest.mark.parametrize("path", ["", "leases", "./leases", "/leases\0/x"])
def test_a_lockspace_has_an_absolute_path(path: str) -> None:
    with pytest.raises(InvalidName):
        make_lockspace_directory(path)


def test_lease_files_are_made_and_removed(table: LockTable, tmp_path: Path) -> None:
    path = table.check_free(str(tmp_path), "x")
    for _ in range(2):
        create_file(table.inodes, path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    for _ in range(2):
        delete_file(table.inodes, path, "x")
        assert not os.path.exists(path)


def test_what_cannot_be_made_or_removed_is_named(table: LockTable, tmp_path: Path) -> None:
    path = str(tmp_path / "directory")
    os.mkdir(path)
    with pytest.raises(SystemCallFailed, match=f"cannot create file '{path}': Is a directory") as caught:
        create_file(table.inodes, path)
    assert caught.value.creating_file
    with pytest.raises(SystemCallFailed, match=f"{path}: Is a directory"):
        delete_file(table.inodes, path, "x")


def test_making_a_file_waits_for_no_reader_of_a_pipe(table: LockTable, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SystemCallFailed) as caught:
        create_file(table.inodes, str(tmp_path / "pipe"))
    assert caught.value.errno == errno.ENXIO


def test_a_lock_is_taken_over_with_its_owners(tmp_path: Path) -> None:
    """Two names of one file, as virtlockd grants them, stay one lock as long as either is needed."""
    path = tmp_path / "x"
    path.touch()
    os.link(path, tmp_path / "alias")
    fd = os.open(path, os.O_RDWR)
    posix.lock_exclusive(fd)
    table = LockTable()
    first = Resource(str(tmp_path), "x", str(path), shared=False, autocreate=False)
    claim = table.adopt(first, [1, 1, 2], fd)
    assert (claim.holder, first.state, first.owners) == (first, State.HELD, {1: 2, 2: 1})
    assert table.lockspaces == [str(tmp_path)]

    alias = Resource(DIRECT, str(tmp_path / "alias"), str(tmp_path / "alias"), shared=False, autocreate=False)
    with pytest.raises(Busy) as caught:
        table.adopt(alias, [3], os.open(tmp_path / "alias", os.O_RDWR))
    assert caught.value.holder is first
    assert first.owners == {1: 2, 2: 1, 3: 1}
    assert list(table) == [first]
    for owner, last in {1: False, 2: False, 3: True}.items():
        assert table.end_holdings(owner) == [first] * last
        assert locks_on(path) == [KernelLock("WRITE", os.getpid())]
    first.drop(table.inodes)
    assert locks_on(path) == []
