"""The lock table: its decisions and errors, and the states of a resource while its engine is busy."""

import os
from pathlib import Path

import pytest

from lockd.engines.files.claims import Claim
from lockd.engines.files.engine import FilesEngine
from lockd.engines.files.inodes import Inodes
from lockd.linux import record_locks
from lockd.locks.engine import Later
from lockd.locks.errors import (
    Busy,
    DirectLockspaceExists,
    InvalidName,
    LockspaceExists,
    NotHeld,
    NotOwner,
    SystemCallFailed,
    TooManyHoldings,
    UnknownLockspace,
)
from lockd.locks.resource import DIRECT, Resource, State
from lockd.locks.table import HOLDINGS_MAX, LockTable
from tests.kernel_locks import KernelLock, locks_on
from tests.lock_fixtures import slow_mounts


@pytest.fixture
def engine() -> FilesEngine:
    """An engine that takes every lock on the spot, whatever the test's directory is on."""
    return FilesEngine(Inodes(), slow_mounts({}))


@pytest.fixture
def table(engine: FilesEngine, tmp_path: Path) -> LockTable:
    """A table with one lockspace, the test's directory."""
    table = LockTable(engine)
    table.add_lockspace(str(tmp_path))
    return table


def reserve(table: LockTable, lockspace: str, name: str, key: int = 1, *, shared: bool = False) -> Resource:
    resource = table.reserve(lockspace, name, key, 0.0, shared=shared, autocreate=True)
    assert resource is not None
    return resource


def acquire(table: LockTable, lockspace: str, name: str, key: int = 1, *, shared: bool = False) -> Resource:
    resource = reserve(table, lockspace, name, key, shared=shared)
    hold = resource.engine.take(resource)
    assert not isinstance(hold, Later)
    table.grant(resource, hold)
    return resource


def drop(table: LockTable, resource: Resource) -> None:
    assert resource.engine.drop(resource) is None
    table.forget(resource)


def release(table: LockTable, resource: Resource, key: int = 1) -> None:
    assert table.end_holding(resource.lockspace, resource.name, key) is resource
    drop(table, resource)


def test_a_resource_is_reserved_from_when_it_is_asked_for(table: LockTable, tmp_path: Path) -> None:
    """An engine may take the lock in a worker thread. Meanwhile the resource is busy for everybody else."""
    resource = reserve(table, str(tmp_path), "x", shared=True)
    assert resource.state is State.ACQUIRING
    assert table.find(str(tmp_path), "x") is resource
    for shared in (False, True):
        with pytest.raises(Busy, match="Lockspace resource 'x' is locked") as caught:
            table.reserve(str(tmp_path), "x", 2, 0.0, shared=shared, autocreate=True)
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
        table.reserve(str(tmp_path), "x", 2, 0.0, shared=True, autocreate=True)
    drop(table, resource)
    release(table, acquire(table, str(tmp_path), "x"))


def test_holdings_are_counted_for_each_owner(table: LockTable, tmp_path: Path) -> None:
    lockspace = str(tmp_path)
    resource = acquire(table, lockspace, "x", 1, shared=True)
    for key in (1, 2):
        assert table.reserve(lockspace, "x", key, 0.0, shared=True, autocreate=False) is None
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


def test_only_the_holdings_of_a_dead_owner_end(table: LockTable, tmp_path: Path) -> None:
    lockspace = str(tmp_path)
    own = acquire(table, lockspace, "own", 1)
    shared = acquire(table, lockspace, "shared", 1, shared=True)
    table.reserve(lockspace, "shared", 1, 0.0, shared=True, autocreate=True)
    table.reserve(lockspace, "shared", 2, 0.0, shared=True, autocreate=True)
    on_its_way = reserve(table, lockspace, "slow", 1)
    assert table.end_holdings(1) == [own]
    assert shared.owners == {2: 1}
    assert table.holdings(1) == [own, on_its_way]
    assert {resource.name for resource in table} == {"own", "shared", "slow"}
    drop(table, own)
    table.forget(on_its_way)
    release(table, shared, 2)
    assert table.holdings(1) == []


def test_all_holdings_of_an_owner_on_one_resource_end_at_once(table: LockTable, tmp_path: Path) -> None:
    lockspace = str(tmp_path)
    resource = acquire(table, lockspace, "x", 1, shared=True)
    other = acquire(table, lockspace, "y", 1)
    for key in (1, 2):
        assert table.reserve(lockspace, "x", key, 0.0, shared=True, autocreate=False) is None
    with pytest.raises(NotOwner):
        table.end_holdings_of(resource, 3)
    assert not table.end_holdings_of(resource, 1)
    assert (resource.owners, table.holdings(1), table.holdings(2)) == ({2: 1}, [other], [resource])
    assert table.end_holdings_of(resource, 2)
    assert resource.state is State.RELEASING
    with pytest.raises(NotHeld):
        table.end_holdings_of(resource, 2)
    drop(table, resource)
    assert table.holdings(2) == []
    release(table, other)


def test_a_shared_resource_has_so_many_holdings_at_most(table: LockTable, tmp_path: Path) -> None:
    lockspace = str(tmp_path)
    resource = acquire(table, lockspace, "x", 1, shared=True)
    table.add_owners(resource, [1] * (HOLDINGS_MAX - 2))
    assert table.reserve(lockspace, "x", 2, 0.0, shared=True, autocreate=False) is None
    for key in (1, 3):
        with pytest.raises(TooManyHoldings, match=f"x has {HOLDINGS_MAX} holdings, which is the most"):
            table.reserve(lockspace, "x", key, 0.0, shared=True, autocreate=False)
    assert table.holdings(3) == []
    assert not table.end_holdings_of(resource, 1)
    assert resource.owners == {2: 1}
    release(table, resource, 2)


def test_a_resource_whose_lock_cannot_be_taken_is_forgotten(table: LockTable, tmp_path: Path) -> None:
    resource = reserve(table, DIRECT, str(tmp_path / "missing" / "x"))
    with pytest.raises(SystemCallFailed):
        resource.engine.take(resource)
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


def test_a_lock_is_taken_over_with_its_owners(engine: FilesEngine, tmp_path: Path) -> None:
    """Two names of one file, as virtlockd grants them, stay one lock as long as either is needed."""
    path = tmp_path / "x"
    path.touch()
    os.link(path, tmp_path / "alias")
    fd = os.open(path, os.O_RDWR)
    record_locks.lock_exclusive(fd)
    table = LockTable(engine)
    first = Resource(str(tmp_path), "x", str(path), engine, 0.0, False, False)
    hold = engine.adopt(first, {"fd": fd})
    table.adopt(first, [1, 1, 2], hold)
    assert isinstance(hold, Claim)
    assert (hold.holder, first.hold) == (first, hold)
    assert (first.state, first.owners) == (State.HELD, {1: 2, 2: 1})
    assert table.lockspaces == [str(tmp_path)]
    assert table.find(str(tmp_path), "x") is first

    alias = Resource(DIRECT, str(tmp_path / "alias"), str(tmp_path / "alias"), engine, 0.0, False, False)
    with pytest.raises(Busy) as caught:
        engine.adopt(alias, {"fd": os.open(tmp_path / "alias", os.O_RDWR)})
    assert caught.value.holder is first
    table.add_owners(first, [3])
    assert first.owners == {1: 2, 2: 1, 3: 1}
    assert list(table) == [first]
    for key, last in {1: False, 2: False, 3: True}.items():
        assert table.end_holdings(key) == [first] * last
        assert locks_on(path) == [KernelLock("WRITE", os.getpid())]
    drop(table, first)
    assert locks_on(path) == []


def test_a_forgotten_resource_has_no_hold(table: LockTable, tmp_path: Path) -> None:
    """Its claim refers to it. Such a circle would be work for the garbage collector in every release."""
    resource = acquire(table, str(tmp_path), "x")
    assert resource.hold is not None
    release(table, resource)
    assert resource.hold is None


def test_a_lockspace_has_the_engine_that_it_was_given(engine: FilesEngine) -> None:
    """All other lockspaces, and the direct one, have the first engine."""
    other = FilesEngine(Inodes(), slow_mounts({}))
    table = LockTable(engine, {"/cluster": other})
    assert table.engine_of("/cluster") is other
    assert table.engine_of("/leases") is table.engine_of(DIRECT) is engine
    assert table.lockspaces == []
    for lockspace, expected in {"/cluster": other, "/leases": engine}.items():
        table.add_lockspace(lockspace)
        assert reserve(table, lockspace, "x").engine is expected


def test_a_name_that_the_engine_refuses_is_not_reserved(table: LockTable) -> None:
    for call in (
        lambda: table.reserve(DIRECT, "disk", 1, 0.0, shared=False, autocreate=False),
        lambda: table.check_free(DIRECT, "disk"),
    ):
        with pytest.raises(InvalidName):
            call()
    assert (len(table), table.holdings(1)) == (0, [])
