"""A client that closes a connection in trouble. It is a process of its own, as the daemon may kill it.

Its arguments are the name of a function below, the daemon's socket, the daemon's pid and two disks. It prints what has
happened, and lives until its standard input ends.
"""

import ctypes
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio
import trio.testing

from lockd.client.connection import LockConnection
from lockd.client.errors import NoAnswer
from lockd.client.resource import Resource
from lockd.client.trio_connection import TrioLockConnection

_, SCENE, SOCKET, DAEMON, *PATHS = sys.argv
DISK, OTHER = (Resource("", path) for path in PATHS)
PATIENCE = 0.3
PAUSE = 1.0
KEPT: list[object] = []


def stop_daemon() -> None:
    """Have the daemon stop, and go on after a pause."""
    os.kill(int(DAEMON), signal.SIGSTOP)
    threading.Timer(PAUSE, os.kill, (int(DAEMON), signal.SIGCONT)).start()


def connect(closing_timeout: float = 10) -> LockConnection:
    connection = LockConnection.connect(Path(SOCKET), timeout=PATIENCE, closing_timeout=closing_timeout)
    connection.register()
    return connection


async def connect_trio(closing_timeout: float = 10) -> TrioLockConnection:
    connection = await TrioLockConnection.connect(Path(SOCKET), closing_timeout=closing_timeout)
    await connection.register()
    return connection


@contextmanager
def no_answer(what: str) -> Iterator[None]:
    """Say that the block ended because the daemon did not answer, and within what time."""
    began = time.monotonic()
    try:
        yield
    except NoAnswer as error:
        soon = time.monotonic() < began + PAUSE
        print(f"{what}: {error}" if soon else f"{what}: too late")


def wait_for_daemon() -> None:
    """Return after the daemon has gone on, and has served what came before."""
    with LockConnection.connect(Path(SOCKET), timeout=15) as connection:
        connection.create_lockspace("")


def closed_while_the_daemon_pauses() -> None:
    with connect() as connection:
        connection.acquire(DISK)
        stop_daemon()
        with no_answer("acquire"):
            connection.acquire(OTHER)


def closed_before_the_daemon_goes_on() -> None:
    connection = connect(closing_timeout=PATIENCE)
    connection.acquire(DISK)
    stop_daemon()
    with no_answer("close"):
        connection.close()
    connection.close()  # has no effect any more
    wait_for_daemon()


def closed_beside_a_call_that_hangs() -> None:
    connection = connect(closing_timeout=PATIENCE)
    connection.acquire(DISK)
    with no_answer("acquire"):
        connection.acquire(OTHER)
    with no_answer("close"):
        connection.close()


def closed_beside_another_connection() -> None:
    holder = connect()
    holder.acquire(DISK)
    with connect() as connection:
        connection.acquire(OTHER)
    wait_for_daemon()
    KEPT.append(holder)


def closed_beside_a_detached_connection() -> None:
    holder = connect()
    holder.acquire(DISK)
    holder.detach()
    del holder
    with connect() as connection:
        connection.acquire(OTHER)
    wait_for_daemon()


def closed_when_restricted() -> None:
    with connect() as connection:
        connection.acquire(DISK)
        connection.restrict()
    wait_for_daemon()


def closed_in_a_child() -> None:
    with ExitStack() as blocks:
        connection = blocks.enter_context(connect())
        blocks.enter_context(connection.holding(DISK))
        connection.acquire(OTHER)
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            connection.release(OTHER)
            KEPT.append(blocks.pop_all())
    if not child:
        os._exit(0)


def closed_in_a_child_with_the_same_pid() -> None:
    clone_newpid = 0x20000000  # <linux/sched.h>; os.unshare is new in Python 3.12
    assert ctypes.CDLL(None).unshare(clone_newpid) == 0
    pid = os.getpid()
    connection = connect()
    connection.acquire(DISK)
    child = os.fork()
    if not child:
        connection.close()
        os._exit(os.getpid() != pid)
    assert os.waitpid(child, 0)[1] == 0
    KEPT.append(connection)


async def closed_in_a_child_by_trio() -> None:
    connection = await connect_trio()
    await connection.acquire(DISK)
    async with connection.holding(OTHER):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
    if not child:
        await connection.aclose()
        os._exit(0)
    KEPT.append(connection)


async def closed_by_another_task() -> None:
    async def acquire(connection: TrioLockConnection) -> None:
        try:
            await connection.acquire(OTHER)
        except trio.ClosedResourceError as error:
            print(f"acquire: {error}")

    async with trio.open_nursery() as nursery, await connect_trio() as connection:
        await connection.acquire(DISK)
        stop_daemon()
        nursery.start_soon(acquire, connection)
        nursery.start_soon(acquire, connection)
        await trio.testing.wait_all_tasks_blocked()


async def closed_though_cancelled() -> None:
    connection = await connect_trio()
    await connection.acquire(DISK)
    stop_daemon()
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.aclose()
    print(f"cancelled: {scope.cancelled_caught}")


async def closed_though_cancelled_before_the_daemon_goes_on() -> None:
    connection = await connect_trio(PATIENCE)
    await connection.acquire(DISK)
    stop_daemon()
    began = time.monotonic()
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.aclose()
    assert time.monotonic() < began + PAUSE
    print(f"cancelled: {scope.cancelled_caught}")
    with no_answer("second aclose"):
        await connection.aclose()
    wait_for_daemon()


async def closed_before_the_daemon_goes_on_by_trio() -> None:
    connection = await connect_trio(PATIENCE)
    await connection.acquire(DISK)
    stop_daemon()
    with no_answer("close"):
        await connection.aclose()
    wait_for_daemon()


async def holding_is_bounded() -> None:
    async with await connect_trio(PATIENCE) as connection:
        with no_answer("holding"):
            async with connection.holding(DISK):
                stop_daemon()
        await trio.to_thread.run_sync(wait_for_daemon)


async def holding_ends_with_the_connection() -> None:
    connection = await connect_trio()
    async with connection.holding(DISK):
        await connection.aclose()


async def a_large_call_can_be_cancelled() -> None:
    """It is larger than the socket's buffer. What is left of it is sent later."""
    long = Resource("", f"/{'x' * 65000}")
    async with await connect_trio() as connection:
        await connection.acquire(DISK)
        stop_daemon()
        for _ in range(10):
            with trio.move_on_after(0.01):
                await connection.acquire(long)


if __name__ == "__main__":
    scene = globals()[SCENE]
    if inspect.iscoroutinefunction(scene):
        trio.run(scene)
    else:
        scene()
    print("alive", flush=True)
    sys.stdin.read()
