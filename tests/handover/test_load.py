"""Live upgrades under load: nothing is lost. `make soak` makes more of them."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lockd.wire import frames, lock
from lockd.wire.lock import Procedure
from tests.handover.conftest import MakeDisk, MakeGuest
from tests.handover.program import upgrade
from tests.handover.test_kept import call, read_replies
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import PrivateDaemon
from tests.trouble.guest import Guest
from tests.waiting import wait_until

UPGRADES = int(os.environ.get("LOCKD_UPGRADES", "200"))
CLIENTS = 4


class Load:
    """A process that makes calls without pause: see load_process.py."""

    def __init__(self, daemon: PrivateDaemon, directory: Path) -> None:
        self.kept = directory / "0"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.handover.load_process", str(daemon.socket), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready\n"

    def still_runs(self) -> None:
        if self._process.poll() is not None:
            assert self._process.stderr is not None
            raise AssertionError(self._process.stderr.read())

    def finish(self) -> dict[str, Any]:
        """Have the process stop its calls, and return its report."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._line()
        self.still_runs() if not line else None
        result: dict[str, Any] = json.loads(line)
        return result

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def under_load(daemon: PrivateDaemon, directory: Path) -> Iterator[list[Load]]:
    (directory / "shared").touch()
    loads: list[Load] = []
    try:
        for number in range(CLIENTS):
            loads.append(Load(daemon, directory / f"client{number}"))  # noqa: PERF401
        yield loads
    finally:
        for load in loads:
            load.end()


def send_until_full(guest: Guest, frame: bytes) -> int:
    """Send calls, and read no replies, until the daemon reads no more; return how many were sent whole."""
    guest.connection.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError):
        while True:
            guest.connection.sendall(frame)
            sent += 1
    guest.connection.settimeout(20)
    return sent


def test_upgrades_under_load_lose_nothing(
    daemon: PrivateDaemon,
    make_guest: MakeGuest,
    make_disk: MakeDisk,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Further clients have sent half a frame, have not registered, or do not read their replies."""
    disk = make_disk()
    half, deaf = make_guest(), make_guest()
    acquire = call(7, Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(disk)))
    half.connection.sendall(acquire[:40])
    # The replies are some megabytes in all, because each error contains the name of the resource.
    refused = call(0, Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", "/" + "x" * 30_000))
    unread = send_until_full(deaf, refused)
    with daemon.connect() as unregistered, under_load(daemon, tmp_path) as loads:
        for number in range(UPGRADES):
            upgrade(daemon)
            if number % 10 == 0:
                for load in loads:
                    load.still_runs()
                    assert locks_on(load.kept) == [KernelLock("WRITE", daemon.pid)]
                assert locks_on(tmp_path / "shared") == [KernelLock("READ", daemon.pid)]
        results = [load.finish() for load in loads]
        for load in loads:
            assert locks_on(load.kept) == [KernelLock("WRITE", daemon.pid)]
        assert not half.has_reply()
        half.connection.sendall(acquire[40:])
        assert [(reply.serial, reply.status) for reply in read_replies(half.connection, 1)] == [(7, 0)]
        unregistered.sendall(acquire)
        assert b"have not been registered" in read_replies(unregistered, 1)[0].payload
        replies = read_replies(deaf.connection, unread)
        assert all(reply.status == frames.Status.ERROR for reply in replies)
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    wait_until(lambda: all(locks_on(load.kept) == [] for load in loads), "the locks of the dead are released")
    assert list((tmp_path / "leases").iterdir()) == []
    waits = [wait for result in results for wait in sorted(result["waits"])[-UPGRADES:]]
    with capsys.disabled():
        print(
            f"\n{UPGRADES} upgrades under {sum(result['calls'] for result in results)} calls, none lost;"
            f" longest wait for each: median {statistics.median(waits) * 1000:.0f} ms,"
            f" worst {max(waits) * 1000:.0f} ms"
        )
