"""The start of the next program fails for a moment. There is no way back, so it is repeated, and no lock is lost."""

from pathlib import Path

import pytest

from tests.faults import tracer
from tests.faults.tracer import Fault
from tests.handover.conftest import MakeDisk, MakeGuest
from tests.handover.program import answers, said, upgrade
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
