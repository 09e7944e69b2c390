"""No thread can be started: acquires are refused with what to do, releases wait, and no guest is killed for it.

The limit is one of memory, as every user may set it for a process that runs: a thread needs 8 MiB for its stack.
"""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import PrivateDaemon
from tests.trouble.conftest import MakeGuest
from tests.trouble.guest import Guest, Refused
from tests.trouble.hanging_filesystem import HangingFilesystem
from tests.waiting import wait_until

ADVICE = (
    "no thread can be started, as the limit of tasks or the memory is used up; "
    "raise TasksMax= of virtlockd.service (ulimit -u)"
)
TOO_LITTLE_FOR_A_STACK = 6 << 20


@contextmanager
def no_threads(daemon: PrivateDaemon) -> Iterator[None]:
    """Have the daemon start no further thread within the context. It may use a thread that is idle."""
    before = resource.prlimit(daemon.pid, resource.RLIMIT_AS)
    pages = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + TOO_LITTLE_FOR_A_STACK
    resource.prlimit(daemon.pid, resource.RLIMIT_AS, (size, before[1]))
    yield
    resource.prlimit(daemon.pid, resource.RLIMIT_AS, before)


def times_logged(daemon: PrivateDaemon, text: str) -> int:
    return daemon.log.read_text().count(text)


@pytest.fixture
def link(tmp_path: Path, disk: Path) -> Path:
    """A symbolic link to the disk: it may lead anywhere, so a thread opens it."""
    path = tmp_path / "link"
    path.symlink_to(disk)
    return path


def test_an_acquire_that_needs_a_thread_is_refused_and_nobody_is_killed(
    daemon: PrivateDaemon, make_guest: MakeGuest, disk: Path, link: Path, tmp_path: Path
) -> None:
    guest, other_disk = make_guest(), tmp_path / "other"
    other_disk.touch()
    guest.acquire(other_disk)
    with no_threads(daemon):
        for _ in range(3):
            with pytest.raises(Refused, match=f"^Unable to serve .*: {re.escape(ADVICE)}$"):
                guest.acquire(link)
        assert locks_on(disk) == []
        assert locks_on(other_disk) == [KernelLock("WRITE", daemon.pid)]
        # Local files need no thread.
        guest.acquire(disk)
        guest.release(disk)
    guest.acquire(link)
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    assert times_logged(daemon, f"wait or fail: {ADVICE}") == 1
    assert guest.process.poll() is None


@pytest.fixture
def remote(filesystem: HangingFilesystem) -> Path:
    path = filesystem.path / "disk"
    path.touch()
    return path


def use_the_idle_thread(filesystem: HangingFilesystem, guest: Guest) -> None:
    """Have a call hang in the thread that is idle after the last call."""
    other = filesystem.path / "other"
    other.touch()
    before = filesystem.arrived("open")
    filesystem.hang("open")
    guest.send_acquire(other)
    filesystem.wait_for("open", before + 1)


@pytest.mark.parametrize("ends", [False, True])
def test_a_release_that_needs_a_thread_is_made_as_soon_as_there_is_one(
    daemon: PrivateDaemon, make_guest: MakeGuest, filesystem: HangingFilesystem, remote: Path, ends: bool
) -> None:
    """The lock is neither stuck nor given away before, whether the guest releases it or ends."""
    guest, hanging = make_guest(), make_guest()
    guest.acquire(remote)
    use_the_idle_thread(filesystem, hanging)
    with no_threads(daemon):
        if ends:
            guest.kill()
        else:
            guest.send_release(remote)
        wait_until(lambda: times_logged(daemon, ADVICE) == 1, "the log says what to do")
        assert not guest.has_reply()
        assert len(filesystem.locks()) == 1
    wait_until(lambda: filesystem.locks() == [], "the lock has ended")
    if not ends:
        guest.reply()
        assert guest.process.poll() is None
    assert times_logged(daemon, ADVICE) == 1
