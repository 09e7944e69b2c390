"""Somebody has a lease on the file (F_SETLEASE in fcntl(2)), as file servers do: opening waits until it is given up."""

import fcntl
import os
import signal
from pathlib import Path

from lockd.wire import lock
from lockd.wire.lock import Procedure
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import private_daemon
from tests.raw_client import RawClient
from tests.waiting import wait_until


def test_only_who_asks_for_the_file_waits_for_its_lease(tmp_path: Path) -> None:
    leased, other = tmp_path / "leased", tmp_path / "other"
    for disk in (leased, other):
        disk.write_bytes(b"")
    asked_back: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _frame: asked_back.append(number))
    lease = os.open(leased, os.O_RDWR)
    try:
        with (
            private_daemon(tmp_path / "daemon") as daemon,
            RawClient(daemon) as waiting,
            RawClient(daemon) as client,
        ):
            fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            arguments = lock.encode_resource("", str(leased))
            waiting.socket.sendall(waiting.frame(Procedure.ACQUIRE_RESOURCE, arguments))
            wait_until(lambda: bool(asked_back), "the kernel asks for the lease")
            assert client.acquire(other) is None
            assert "is locked being acquired by domain" in (client.acquire(leased) or "")
            fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            assert waiting.reply() is None
            assert locks_on(leased) == [KernelLock("WRITE", daemon.pid)]
    finally:
        os.close(lease)
        signal.signal(signal.SIGIO, before)
