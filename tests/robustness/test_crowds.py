"""Very many of something: the daemon serves others as fast as before, and keeps nothing of it.

LOCKD_CROWD is the share of the full numbers that is tried; ``make nightly`` tries all.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from lockd.wire import lock
from lockd.wire.frames import FrameType, encode
from lockd.wire.lock import Owner, Procedure
from tests.differential.pair import PING
from tests.raw_client import AUTOCREATE, NOBODY, RawClient
from tests.robustness.conftest import Guard
from tests.robustness.observed import nothing_left_behind
from tests.robustness.test_socket import raise_own_limit
from tests.trouble.stopwatch import Stopwatch

SHARE = float(os.environ.get("LOCKD_CROWD", "0.01"))

HALF_OPEN = 6000
NAMES = int(1_000_000 * SHARE)
CONNECTS = int(200_000 * SHARE)
REGISTERS = int(300_000 * SHARE)
SIGNALS = int(200_000 * SHARE)

_BATCH = 200
"""How many calls are in flight: their replies fit into a socket's buffer."""

_CALLS = 1000
_ROUNDS = 5


def test_half_open_connections_keep_nobody_waiting(guard: Guard) -> None:
    """Their number is not reduced: it takes a second."""
    raise_own_limit()
    before = slowest_of_most_calls(guard)
    call = encode(lock.PROGRAM, 1, Procedure.CREATE_LOCKSPACE, FrameType.CALL, 1, 0, bytes(4))
    with nothing_left_behind(guard.daemon), contextlib.ExitStack() as stack:
        for number in range(HALF_OPEN):
            connection = stack.enter_context(guard.daemon.connect())
            connection.sendall(call[: 1 + number % (len(call) - 1)])
            if number % _BATCH == 0:
                # Wait until all are accepted: the queue of the listening socket is limited.
                guard.check()
        # The work of the daemon would grow with their number if it looked at each of them.
        assert slowest_of_most_calls(guard) < 3 * before + 0.001
        guard.check()


def slowest_of_most_calls(guard: Guard) -> float:
    """Return how many seconds 99 % of a client's calls take at most, in the best of some rounds."""
    stopwatch = Stopwatch(guard.daemon.pid)
    with RawClient(guard.daemon, owner=None) as client:

        def ping() -> None:
            client.socket.sendall(PING)
            client.socket.recv(100)

        rounds = [sorted(stopwatch.time(ping) for _ in range(_CALLS)) for _ in range(_ROUNDS)]
    return min(durations[_CALLS * 99 // 100] for durations in rounds)


def test_of_a_million_names_none_is_kept(guard: Guard) -> None:
    (guard.daemon.run_directory / "names").mkdir()
    directory = str(guard.daemon.run_directory / "names")
    if os.geteuid() == 0:
        # In memory, so that a million files are quickly made and removed.
        directory = "/run/names"
        guard.daemon.run_inside("mount", "-t", "tmpfs", "tmpfs", directory)
    with RawClient(guard.daemon) as client:
        assert client.create_lockspace(directory) is None
        with nothing_left_behind(guard.daemon):
            for numbers in batches(NAMES):
                for number in numbers:
                    granted = lock.encode_resource(directory, f"lease {number}", AUTOCREATE)
                    refused = lock.encode_resource("", f"{directory}/missing {number}")
                    client.socket.sendall(
                        client.frame(Procedure.ACQUIRE_RESOURCE, granted)
                        + client.frame(Procedure.RELEASE_RESOURCE, granted[:-4] + bytes(4))
                        + client.frame(Procedure.ACQUIRE_RESOURCE, refused)
                    )
                for number in numbers:
                    assert client.reply() is None
                    assert client.reply() is None
                    error = f"Unable to open resource {directory}/missing {number}: No such file or directory"
                    assert client.reply() == error
    assert os.listdir(f"/proc/{guard.daemon.pid}/root{directory}") == []
    guard.check()


def test_of_many_connections_none_is_kept(guard: Guard) -> None:
    with nothing_left_behind(guard.daemon):
        for number in range(CONNECTS):
            RawClient(guard.daemon, NOBODY + number % 1000).close()
        guard.check()


def test_of_many_owners_of_one_client_only_the_last_is_kept(guard: Guard, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    with nothing_left_behind(guard.daemon), RawClient(guard.daemon, owner=None) as client:
        for numbers in batches(REGISTERS):
            owners = (Owner(UUID(int=number), f"vm {number}", 1, NOBODY + number) for number in numbers)
            client.socket.sendall(
                b"".join(client.frame(Procedure.REGISTER, lock.encode_register(owner)) for owner in owners)
            )
            assert [client.reply() for _ in numbers] == [None] * len(numbers)
        last = NOBODY + REGISTERS - 1
        assert client.acquire(disk) is None
        assert client.acquire(disk) == (
            f"resource busy: Lockspace resource '{disk}' is locked by domain \"vm {REGISTERS - 1}\" (pid {last})"
        )
        assert client.release(disk) is None
    guard.check()


def test_a_storm_of_signals_disturbs_no_call(guard: Guard) -> None:
    """Those that a daemon may get: from a terminal, from its children, from ``systemctl reload``."""
    numbers = (signal.SIGHUP, signal.SIGCHLD, signal.SIGWINCH, signal.SIGPIPE, signal.SIGURG, signal.SIGCONT)
    with nothing_left_behind(guard.daemon), RawClient(guard.daemon) as client:
        for number in range(SIGNALS):
            guard.daemon.signal(numbers[number % len(numbers)])
            if number % 20 == 0:
                assert client.create_lockspace("") is None
        guard.check()


def batches(number: int) -> Iterator[range]:
    """Yield the numbers from 0 in batches."""
    for start in range(0, number, _BATCH):
        yield range(start, min(start + _BATCH, number))
