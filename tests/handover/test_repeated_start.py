"""The start of the next program fails for a moment. There is no way back, so it is repeated, and no lock is lost."""

import os
import socket
from pathlib import Path

import pytest

from tests.faults import tracer
from tests.faults.tracer import Fault
from tests.handover.conftest import MakeDisk, MakeGuest
from tests.handover.program import Program, answers, said, upgrade
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import PrivateDaemon


@pytest.mark.parametrize(("name", "number"), [("socketpair", 1), ("epoll_create1", 2)])
def test_a_start_without_descriptors_is_repeated(
    daemon: PrivateDaemon,
    make_guest: MakeGuest,
    make_disk: MakeDisk,
    state_file: Path,
    tmp_path: Path,
    name: str,
    number: int,
) -> None:
    if not tracer.can_trace():
        pytest.skip("a system call that fails needs strace")
    guest, disk = make_guest(), make_disk()
    guest.acquire(disk)
    with tracer.injected(daemon.pid, Fault(name, number, "EMFILE"), tmp_path / "trace"):
        upgrade(daemon)
    assert tracer.hit(tmp_path / "trace")
    assert "the start failed and is repeated: OSError(24, 'Too many open files')" in said(daemon)
    assert not state_file.exists()
    guest.release(disk)
    assert locks_on(disk) == []
    guest.acquire(disk)
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    upgrade(daemon)
    assert answers(daemon)
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]


@pytest.mark.parametrize("is_state_unreadable", [False, True])
def test_a_start_is_repeated_without_end_as_long_as_there_are_locks(
    daemon: PrivateDaemon,
    program: Program,
    state_file: Path,
    make_guest: MakeGuest,
    make_disk: MakeDisk,
    tmp_path: Path,
    is_state_unreadable: bool,
) -> None:
    """What is wrong may be a package that is half installed. The watchdog does not end the process meanwhile."""
    if not tracer.can_trace():
        pytest.skip("a system call that fails needs strace")
    guest, disk = make_guest(), make_disk()
    guest.acquire(disk)
    fault, paths = Fault("socketpair", 1, "EMFILE"), []
    if is_state_unreadable:
        # The program between opens it twice. The daemon of root sees it below a /run of its own.
        fault = Fault("openat", 3, "EACCES")
        paths = [Path("/run", state_file.name) if os.geteuid() == 0 else state_file]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "systemd"))
        systemd.settimeout(10)
        program.install_lockd_after(
            f"os.environ.update(LOCKD_START_ATTEMPTS='20', NOTIFY_SOCKET={str(tmp_path / 'systemd')!r})"
        )
        with tracer.injected(daemon.pid, fault, tmp_path / "trace", paths):
            upgrade(daemon)
        assert systemd.recv(100) == b"WATCHDOG=1"
    assert tracer.hit(tmp_path / "trace")
    guest.release(disk)
    guest.acquire(disk)
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
