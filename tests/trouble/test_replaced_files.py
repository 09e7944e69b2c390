"""Files of held locks are removed or replaced. The daemon notices, and locks new lease files where nobody has."""

import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from lockd.client.status import StatusConnection
from lockd.daemon.lock_watch import LockWatch
from lockd.daemon.locker import Locker
from lockd.daemon.slow_calls import SlowCalls
from lockd.daemon.tasks import Tasks
from lockd.engines.files.engine import FilesEngine
from lockd.engines.files.inodes import Inodes
from lockd.locks.resource import LOST
from lockd.locks.table import LockTable
from lockd.wire.lock import AcquireFlags
from tests.kernel_locks import KernelLock, locks_on
from tests.lock_fixtures import slow_mounts
from tests.outsider import Outsider
from tests.private_daemon import PrivateDaemon
from tests.trouble.conftest import MakeGuest
from tests.waiting import wait_until

REPLACED = "the path names another file than the locked one"
REMOVED = "the path names no file any more"


@pytest.fixture
def other() -> Iterator[Outsider]:
    """Another process of this host, which locks files."""
    with Outsider() as process:
        yield process


def doubts(daemon: PrivateDaemon) -> dict[str, str]:
    """Return why locks are in doubt, by the names of their files."""
    with StatusConnection.connect(daemon.admin_socket) as status:
        return {Path(held["path"]).name: held["doubt"] for held in status.locks() if held["doubt"]}


def replace(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.moved"))
    path.touch()


def test_files_of_held_locks_are_removed_and_replaced(
    daemon: PrivateDaemon, make_guest: MakeGuest, other: Outsider, tmp_path: Path
) -> None:
    guest = make_guest()
    leases = tmp_path / "leases"
    guest.create_lockspace(leases)
    disks = {name: tmp_path / name for name in ("disk", "replaced disk", "removed disk")}
    for disk in disks.values():
        disk.touch()
        guest.acquire(disk)
    names = ("lease", "removed lease", "replaced lease", "taken lease")
    for name in names:
        guest.acquire(Path(name), str(leases), AcquireFlags.AUTOCREATE)
    replace(disks["replaced disk"])
    disks["removed disk"].rename(tmp_path / "moved")
    (leases / "removed lease").unlink()
    replace(leases / "replaced lease")
    replace(leases / "taken lease")
    assert other.lock(leases / "taken lease", "WRITE")

    taken = "the lock was lost: Lockspace resource 'taken lease' is locked"
    expected = {
        "replaced disk": REPLACED,
        "removed disk": REMOVED,
        "removed lease": LOST,
        "replaced lease": LOST,
        "taken lease": taken,
    }
    wait_until(lambda: doubts(daemon) == expected, "the daemon has noticed")
    log = daemon.log.read_text()
    assert log.count(REPLACED) == 3
    assert log.count(taken) == 1
    own = [KernelLock("WRITE", daemon.pid)]
    for name in ("lease", "removed lease", "replaced lease"):
        assert locks_on(leases / name) == own
    assert locks_on(leases / "taken lease") == [KernelLock("WRITE", other.pid)]
    assert locks_on(leases / "taken lease.moved") == own
    assert locks_on(leases / "replaced lease.moved") == []
    assert locks_on(tmp_path / "replaced disk.moved") == own

    # What is put right is no longer in doubt, and what is free is taken.
    (tmp_path / "moved").rename(disks["removed disk"])
    other.unlock_all()
    del expected["removed disk"]
    expected["taken lease"] = LOST
    wait_until(lambda: doubts(daemon) == expected, "the daemon has noticed")
    assert locks_on(leases / "taken lease") == own
    assert daemon.log.read_text().count(taken) == 1

    for disk in disks.values():
        guest.release(disk)
    for name in names:
        guest.release(Path(name), str(leases))
    assert doubts(daemon) == {}
    assert sorted(path.name for path in leases.iterdir()) == ["replaced lease.moved", "taken lease.moved"]


async def test_on_slow_file_systems_a_worker_thread_looks(tmp_path: Path) -> None:
    paths = [tmp_path / "lease", tmp_path / "other lease"]
    async with trio.open_nursery() as nursery:
        tasks, slow_calls = Tasks(nursery), SlowCalls()
        table = LockTable(FilesEngine(Inodes(), slow_mounts({str(tmp_path): "nfs4"})))
        locker = Locker(table, slow_calls, tasks, lambda key: None)
        watch = LockWatch(table, locker, slow_calls, tasks)
        for path in paths:
            rest = locker.acquire("", str(path), 1, False, True, lambda: True)
            assert rest is not None
            await rest()
        paths[0].unlink()
        await watch.look(slow=False)
        assert [resource.doubt for resource in table] == [None, None]
        await watch.look(slow=True)
        await until(lambda: [resource.doubt for resource in table] == [LOST, None])
        for path in paths:
            assert locks_on(path) == [KernelLock("WRITE", os.getpid())]
            rest = locker.release("", str(path), 1)
            assert rest is not None
            await rest()
            assert not path.exists()


async def test_no_look_begins_where_a_call_hangs(tmp_path: Path) -> None:
    """If it hung too, it would keep a live upgrade waiting, although no client has asked for it."""
    hung, healthy = tmp_path / "hung", tmp_path / "healthy"
    async with slow_watch(hung, healthy) as (nursery, slow_calls, table, watch):
        answered = threading.Event()
        nursery.start_soon(slow_calls.run, str(hung), answered.wait)
        await until(lambda: not slow_calls.may_look(str(hung)))
        await watch.look(slow=True)
        await until(lambda: [resource.doubt for resource in table] == [None, LOST])
        answered.set()
        await until(lambda: slow_calls.may_look(str(hung)))
        await watch.look(slow=True)
        await until(lambda: [resource.doubt for resource in table] == [LOST, LOST])


async def test_the_looks_at_many_file_systems_begin_one_by_one(tmp_path: Path) -> None:
    """Each is made by a thread of its own. Clients are served between their starts."""
    lockspaces = [tmp_path / str(number) for number in range(100)]
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with slow_watch(*lockspaces) as (_, _, table, watch), trio.open_nursery() as client:
        client.start_soon(take_turns)
        await watch.look(slow=True)
        assert turns >= len(lockspaces)
        client.cancel_scope.cancel()
        await until(lambda: all(resource.doubt == LOST for resource in table))


async def test_no_look_begins_while_an_upgrade_waits(tmp_path: Path) -> None:
    lockspace = tmp_path / "lockspace"
    async with slow_watch(lockspace) as (nursery, slow_calls, table, watch):
        answered = threading.Event()
        upgraded = trio.Event()

        async def upgrade() -> None:
            async with slow_calls.paused():
                upgraded.set()

        nursery.start_soon(slow_calls.run, "/hung", answered.wait)
        await until(lambda: not slow_calls.may_look("/hung"))
        nursery.start_soon(upgrade)
        await until(lambda: not slow_calls.may_look(str(lockspace)))
        await watch.look(slow=True)
        for _ in range(200):
            # Calls of clients are served meanwhile. A look that had begun would end before them.
            await slow_calls.run("/other", lambda: None)
        assert [resource.doubt for resource in table] == [None]
        assert not upgraded.is_set()
        answered.set()
        await upgraded.wait()
        await watch.look(slow=True)
        await until(lambda: [resource.doubt for resource in table] == [LOST])


@asynccontextmanager
async def slow_watch(
    *lockspaces: Path,
) -> AsyncIterator[tuple[trio.Nursery, SlowCalls, LockTable, LockWatch]]:
    """Hold a lease in each directory, which counts as a slow file system of its own, and remove its file."""
    for lockspace in lockspaces:
        lockspace.mkdir()
    async with trio.open_nursery() as nursery:
        tasks, slow_calls = Tasks(nursery), SlowCalls()
        table = LockTable(FilesEngine(Inodes(), slow_mounts(dict.fromkeys(map(str, lockspaces), "nfs4"))))
        locker = Locker(table, slow_calls, tasks, lambda pid: None)
        paths = [lockspace / "lease" for lockspace in lockspaces]
        for path in paths:
            rest = locker.acquire("", str(path), 1, False, True, lambda: True)
            assert rest is not None
            await rest()
            path.unlink()
        yield nursery, slow_calls, table, LockWatch(table, locker, slow_calls, tasks)
        for path in paths:
            rest = locker.release("", str(path), 1)
            assert rest is not None
            await rest()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)
