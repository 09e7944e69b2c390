"""The blocking connection and the trio connection, each with both daemons."""

import inspect
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from lockd.client import errors
from lockd.client.connection import LockConnection
from lockd.client.resource import Resource
from lockd.client.trio_connection import TrioLockConnection
from lockd.ctl.exits import Exit
from lockd.wire.lock import Owner
from tests.ctl.conftest import LOCKCTL
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import LOCKD, PrivateDaemon, in_private_run
from tests.waiting import wait_until

STRANGER = 65534

Connect = Callable[[Path], Awaitable[Any]]


@pytest.fixture
def resource(disk: Path) -> Resource:
    return Resource("", str(disk))


def another_owner() -> Owner:
    """Return an owner whose process has ended: a daemon cannot kill a process for its locks."""
    process = subprocess.Popen(["true"])
    process.wait()
    return Owner(UUID(int=1), "another", 1, process.pid)


async def test_a_lock_is_held_until_it_is_released(
    daemon: PrivateDaemon, connect: Connect, disk: Path, resource: Resource
) -> None:
    async with await connect(daemon.socket) as connection:
        await connection.register()
        await connection.acquire(resource)
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
        await connection.release(resource)
        assert locks_on(disk) == []


async def test_leaving_a_connection_releases_its_locks_and_its_process_lives(
    daemon: PrivateDaemon, connect: Connect, disk: Path, resource: Resource
) -> None:
    """A daemon kills an owner that drops its connection while it holds locks."""
    async with await connect(daemon.socket) as connection:
        await connection.register()
        await connection.acquire(resource)
        other = Resource("", f"{disk}-2")
        Path(other.name).touch()
        await connection.acquire(other, shared=True)
    assert locks_on(disk) == []
    assert locks_on(Path(other.name)) == []


async def test_a_lease_file_lives_as_long_as_its_lock(
    daemon: PrivateDaemon, connect: Connect, tmp_path: Path
) -> None:
    lease = Resource(str(tmp_path / "leases"), "a" * 64, autocreate=True)
    async with await connect(daemon.socket) as connection:
        await connection.register()
        await connection.create_lockspace(lease.lockspace)
        await connection.acquire(lease)
        assert locks_on(Path(lease.path)) == [KernelLock("WRITE", daemon.pid)]
        await connection.release(lease)
        assert not Path(lease.path).exists()


async def test_a_resource_is_created_and_deleted(
    daemon: PrivateDaemon, connect: Connect, tmp_path: Path
) -> None:
    resource = Resource(str(tmp_path / "leases"), "lease")
    async with await connect(daemon.socket) as connection:
        await connection.register()
        await connection.new_lockspace(resource.lockspace)
        await connection.create_resource(resource)
        assert Path(resource.path).exists()
        await connection.delete_resource(resource)
        assert not Path(resource.path).exists()


async def test_each_refusal_has_its_exception(
    daemon: PrivateDaemon, connect: Connect, tmp_path: Path, resource: Resource
) -> None:
    async with await connect(daemon.socket) as connection:
        with pytest.raises(errors.NotRegistered):
            await connection.acquire(resource)
        await connection.register()
        with pytest.raises(errors.NotHeld):
            await connection.release(resource)
        with pytest.raises(errors.UnknownLockspace):
            await connection.acquire(Resource(str(tmp_path / "nowhere"), "lease"))
        await connection.create_lockspace(str(tmp_path / "leases"))
        with pytest.raises(errors.LockspaceExists):
            await connection.new_lockspace(str(tmp_path / "leases"))
        with pytest.raises(errors.LockspaceExists):
            await connection.new_lockspace("")
        with pytest.raises(errors.NotADirectory):
            await connection.create_lockspace(resource.name)
        with pytest.raises(errors.SystemCallFailed) as failed:
            await connection.acquire(Resource("", str(tmp_path / "missing")))
        assert failed.value.errno == 2
        await connection.restrict()
        with pytest.raises(errors.Restricted):
            await connection.acquire(resource)


async def test_a_resource_that_another_owner_holds_is_refused(
    daemon: PrivateDaemon, connect: Connect, resource: Resource
) -> None:
    async with await connect(daemon.socket) as holder, await connect(daemon.socket) as connection:
        await holder.register()
        await connection.register(another_owner())
        await holder.acquire(resource)
        with pytest.raises(errors.Busy) as busy:
            await connection.acquire(resource)
        # virtlockd does not name the holder.
        expected = f"(pid {os.getpid()})" if daemon.program == LOCKD else ""
        assert expected in (busy.value.holder or "")
        with pytest.raises(errors.NotOwner):
            await connection.release(resource)


async def test_holding_releases_the_lock_when_its_block_fails(
    daemon: PrivateDaemon, disk: Path, resource: Resource
) -> None:
    with LockConnection.connect(daemon.socket) as connection:
        connection.register()

        def fail_while_holding() -> None:
            with connection.holding(resource, shared=True):
                assert locks_on(disk) == [KernelLock("READ", daemon.pid)]
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_while_holding()
        assert locks_on(disk) == []
    async with await TrioLockConnection.connect(daemon.socket) as trio_connection:
        await trio_connection.register()
        with trio.CancelScope() as scope:
            async with trio_connection.holding(resource):
                assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
                scope.cancel()
                await trio.sleep_forever()
        assert locks_on(disk) == []


async def test_a_detached_connection_keeps_its_locks(
    daemon: PrivateDaemon, connect: Connect, disk: Path, resource: Resource
) -> None:
    connection = await connect(daemon.socket)
    await connection.register(another_owner())
    await connection.acquire(resource)
    detached = connection.detach()
    descriptor: int = await detached if inspect.isawaitable(detached) else detached
    try:
        assert os.get_inheritable(descriptor)
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    finally:
        os.close(descriptor)


async def test_the_end_of_the_daemon_is_the_end_of_the_connection(
    daemon: PrivateDaemon, connect: Connect, resource: Resource
) -> None:
    async with await connect(daemon.socket) as connection:
        await connection.register()
        daemon.process.kill()
        daemon.process.wait()
        with pytest.raises(errors.ConnectionLost):
            await connection.acquire(resource)


async def test_connecting_without_a_daemon_raises_unavailable(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="no lock daemon"):
        await connect(tmp_path / "socket")


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
def test_connecting_to_another_users_daemon_raises_permission_denied(daemon: PrivateDaemon) -> None:
    program = (
        "import sys; from pathlib import Path; from lockd.client.connection import LockConnection\n"
        "from lockd.client.errors import PermissionDenied\n"
        "import os; os.setuid(65534)\n"
        "try: LockConnection.connect(Path(sys.argv[1]))\n"
        "except PermissionDenied: print('denied')"
    )
    run = [sys.executable, "-c", program, str(daemon.socket)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "denied\n"


def test_a_stopped_daemon_is_not_waited_for_longer_than_the_timeout(
    daemon: PrivateDaemon, disk: Path, resource: Resource
) -> None:
    connection = LockConnection.connect(daemon.socket, timeout=0.2)
    connection.register()
    daemon.stop()
    with pytest.raises(errors.ConnectionLost, match="does not answer"):
        connection.acquire(resource)
    daemon.signal(signal.SIGCONT)
    wait_until(lambda: locks_on(disk) == [KernelLock("WRITE", daemon.pid)], "the late answer")
    connection.close()
    assert locks_on(disk) == []


async def test_a_cancelled_call_leaves_no_lock_behind(
    daemon: PrivateDaemon, disk: Path, resource: Resource
) -> None:
    async with await TrioLockConnection.connect(daemon.socket) as connection:
        await connection.register()
        daemon.stop()
        with trio.move_on_after(0.05) as scope:
            await connection.acquire(resource)
        assert scope.cancelled_caught
        daemon.signal(signal.SIGCONT)
        # The next call gets its own reply, not the late one.
        with pytest.raises(errors.NotHeld):
            await connection.release(Resource("", f"{disk}-2"))
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    assert locks_on(disk) == []


async def test_tasks_may_share_a_connection(daemon: PrivateDaemon, tmp_path: Path) -> None:
    disks = [tmp_path / f"disk-{number}" for number in range(20)]
    async with await TrioLockConnection.connect(daemon.socket) as connection:
        await connection.register()
        async with trio.open_nursery() as nursery:
            for disk in disks:
                disk.touch()
                nursery.start_soon(connection.acquire, Resource("", str(disk)))
        assert all(locks_on(disk) == [KernelLock("WRITE", daemon.pid)] for disk in disks)


def test_both_connections_have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, inspect.Signature]:
        names = {"close": "aclose"}
        return {
            names.get(name, name): inspect.signature(member)
            for name, member in inspect.getmembers(kind, inspect.isroutine)
            if not name.startswith("_")
        }

    blocking, asynchronous = public(LockConnection), public(TrioLockConnection)
    assert blocking.keys() == asynchronous.keys()
    for name in blocking.keys() - {"connect", "holding"}:
        assert blocking[name] == asynchronous[name]


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Path]:
    """A socket on which another, unprivileged user listens."""
    if os.geteuid() != 0:
        pytest.skip("acting as another user needs root")
    directory = tmp_path / "run" / "libvirt"
    directory.mkdir(parents=True)
    with ExitStack() as stack:
        for name in ("virtlockd-sock", "virtlockd-admin-sock"):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(directory / name))
            # The credentials that a client sees are those at listen(2) (unix(7)).
            os.seteuid(STRANGER)
            try:
                listener.listen()
            finally:
                os.seteuid(0)
        yield directory / "virtlockd-sock"


async def test_a_socket_on_which_a_stranger_listens_is_not_believed(connect: Connect, stranger: Path) -> None:
    with pytest.raises(errors.PermissionDenied, match=f"^{stranger}: user {STRANGER} listens here"):
        await connect(stranger)


def test_lockctl_asks_nothing_of_a_socket_on_which_a_stranger_listens(stranger: Path, disk: Path) -> None:
    for arguments in (["status"], ["metrics"], ["who", str(disk)], ["run", str(disk), "--", "true"]):
        command, environment = in_private_run(stranger.parents[1], [str(LOCKCTL), *arguments])
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == Exit.NO_PERMISSION, done
        assert f"user {STRANGER} listens here, who is neither root nor this user" in done.stderr
