"""Claims: as long as an inode is claimed, none of its descriptors is closed (Invariant 1)."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from sys import getswitchinterval, setswitchinterval

import pytest

from lockd.engines.files import file_lock
from lockd.engines.files.inodes import ABANDONED, Claim, Claimed, Inodes
from lockd.engines.files.lockspaces import create_file, delete_file
from lockd.linux import record_locks
from lockd.linux.file_identity import identity_of
from lockd.locks.engine import Engine
from lockd.locks.errors import Busy
from lockd.locks.resource import Resource
from tests.kernel_locks import KernelLock, locks_of, locks_on

ROUNDS = 200


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file with a second name."""
    path = tmp_path / "disk"
    path.touch()
    os.link(path, tmp_path / "alias")
    return path


@pytest.fixture
def alias(disk: Path) -> Path:
    return disk.with_name("alias")


def descriptors_of(path: Path) -> int:
    """Return the number of descriptors that this process has open on the inode."""
    wanted = path.stat()
    found = 0
    for entry in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found += os.path.samestat(os.stat(f"/proc/self/fd/{entry}"), wanted)
    return found


def test_not_more_than_one_descriptor_waits_for_its_claim_to_end(disk: Path, alias: Path) -> None:
    """An inode is known only once it is open. While one descriptor waits, other files are pinned first."""
    inodes = Inodes()
    claim = inodes.open(str(disk), os.O_RDWR, "first")
    record_locks.lock_exclusive(claim.fd)
    for _ in range(100):
        with pytest.raises(Claimed) as caught:
            inodes.open(str(alias), os.O_RDWR, "second")
        assert caught.value.claim is claim
    assert descriptors_of(disk) == 2
    assert inodes.holder(claim.identity) == "first"
    assert inodes.holder((1, 2)) is None
    assert sorted(inodes.descriptors()) == sorted([claim.fd, *(claim.parked or ())])
    assert locks_on(disk) == [KernelLock("WRITE", os.getpid())]
    inodes.close(claim)
    assert descriptors_of(disk) == 0
    assert inodes.descriptors() == []


def test_other_files_are_opened_as_before_while_one_descriptor_waits(
    disk: Path, alias: Path, tmp_path: Path
) -> None:
    inodes = Inodes()
    claim = inodes.open(str(disk), os.O_RDWR, "first")
    with pytest.raises(Claimed):
        inodes.open(str(alias), os.O_RDWR, "second")
    other = inodes.open(str(tmp_path / "new"), os.O_RDWR | os.O_CREAT, "other")
    assert stat.S_IMODE(os.fstat(other.fd).st_mode) == 0o600
    (tmp_path / "link").symlink_to("disk")
    for path, reason in {tmp_path / "link": errno.ELOOP, tmp_path: errno.EISDIR}.items():
        with pytest.raises(OSError, match=os.strerror(reason)):
            inodes.open(str(path), os.O_RDWR, "third")
    inodes.close(other)
    inodes.close(claim)


def test_a_pinned_file_is_never_opened_where_it_is_claimed(disk: Path, alias: Path) -> None:
    inodes = Inodes()
    claim = inodes.open_pinned(str(disk), os.O_RDWR, "first")
    with pytest.raises(Claimed):
        inodes.open_pinned(str(alias), os.O_RDWR, "second")
    assert descriptors_of(disk) == 1
    inodes.close(claim)


def test_nodes_of_one_device_are_one_inode(device: Path, tmp_path: Path) -> None:
    """The kernel has two inodes, and locks them apart. The disk is the same."""
    node = tmp_path / "node"
    os.mknod(node, stat.S_IFBLK | 0o600, device.stat().st_rdev)
    inodes = Inodes()
    claim = inodes.open(str(device), os.O_RDWR, "first")
    with pytest.raises(Claimed):
        inodes.open(str(node), os.O_RDWR, "second")
    with pytest.raises(Claimed):
        inodes.open_pinned(str(node), os.O_RDWR, "third")
    inodes.close(claim)


def test_what_cannot_be_opened_leaves_no_claim(tmp_path: Path) -> None:
    inodes = Inodes()
    for open_claimed in (inodes.open, inodes.open_pinned):
        for _ in range(2):
            with pytest.raises(IsADirectoryError):
                open_claimed(str(tmp_path), os.O_RDWR, "first")
        with pytest.raises(FileNotFoundError):
            open_claimed(str(tmp_path / "missing"), os.O_RDWR, "first")
        with pytest.raises(FileNotFoundError):
            open_claimed(str(tmp_path / "missing" / "lease"), os.O_RDWR | os.O_CREAT, "first")
    assert descriptors_of(tmp_path) == 0


def test_the_file_behind_a_dangling_link_is_made(tmp_path: Path) -> None:
    """As open(2) does with O_CREAT."""
    (tmp_path / "link").symlink_to("to/target")
    inodes = Inodes()
    with pytest.raises(FileNotFoundError):
        inodes.open_pinned(str(tmp_path / "link"), os.O_RDWR | os.O_CREAT, "first")
    (tmp_path / "to").mkdir()
    claim = inodes.open_pinned(str(tmp_path / "link"), os.O_RDWR | os.O_CREAT, "first")
    assert claim.identity == identity_of((tmp_path / "to" / "target").stat())
    inodes.close(claim)


def test_an_inherited_descriptor_of_a_claimed_inode_is_kept_open(disk: Path, alias: Path) -> None:
    inodes = Inodes()
    claim = inodes.adopt(os.open(disk, os.O_RDWR), "first")
    record_locks.lock_exclusive(claim.fd)
    with pytest.raises(Claimed):
        inodes.adopt(os.open(alias, os.O_RDWR), "second")
    inodes.park(os.open(alias, os.O_RDWR), claim)
    assert descriptors_of(disk) == 3
    assert locks_on(disk) == [KernelLock("WRITE", os.getpid())]
    inodes.close(claim)
    assert descriptors_of(disk) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        inodes.adopt(claim.fd, "third")


def test_a_known_identity_is_believed(disk: Path) -> None:
    """Asking a hung file system for the identity would block the whole daemon."""
    inodes = Inodes()
    claim = inodes.adopt(os.open(disk, os.O_RDWR), "first", (1, 2))
    assert claim.identity == (1, 2)
    inodes.close(claim)


def test_the_next_claim_takes_over_an_abandoned_descriptor(disk: Path, alias: Path) -> None:
    inodes = Inodes()
    fd = os.open(disk, os.O_RDWR)
    inodes.adopt(fd, ABANDONED)
    claim = inodes.open_pinned(str(alias), os.O_RDWR, "first")
    assert (claim.fd, claim.holder) == (fd, "first")
    inodes.close_abandoned()
    assert descriptors_of(disk) == 1
    inodes.close(claim)


def test_a_descriptor_that_stays_abandoned_is_closed(disk: Path) -> None:
    inodes = Inodes()
    inodes.adopt(os.open(disk, os.O_RDWR), ABANDONED)
    inodes.close_abandoned()
    assert descriptors_of(disk) == 0
    inodes.close(inodes.open(str(disk), os.O_RDWR, "first"))


def test_creating_a_file_that_is_held_opens_nothing(disk: Path, alias: Path) -> None:
    inodes = Inodes()
    claim = inodes.open(str(disk), os.O_RDWR, "first")
    record_locks.lock_exclusive(claim.fd)
    create_file(inodes, str(alias))
    assert locks_on(disk) == [KernelLock("WRITE", os.getpid())]
    assert descriptors_of(disk) == 1
    inodes.close(claim)


def test_a_held_file_loses_none_of_its_names(disk: Path, alias: Path) -> None:
    inodes = Inodes()
    claim = inodes.open(str(disk), os.O_RDWR, "first")
    with pytest.raises(Busy, match="Lockspace resource 'alias' is locked") as caught:
        delete_file(inodes, str(alias), "alias")
    assert caught.value.holder == "first"
    assert alias.exists()
    inodes.close(claim)
    delete_file(inodes, str(alias), "alias")
    assert not alias.exists()


# Races between worker threads and the reactor's thread


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Let the threads of the interpreter switch as often as they can."""
    before = getswitchinterval()
    setswitchinterval(1e-6)
    yield
    setswitchinterval(before)


class Worker:
    """A thread that makes one call in each round, at the same time as the test makes another."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act
        self._barrier = threading.Barrier(2)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def start_round(self) -> None:
        self._barrier.wait(10)

    def end_round(self) -> None:
        self._barrier.wait(10)

    def _run(self) -> None:
        for number in range(ROUNDS):
            self._barrier.wait(10)
            self._act(number)
            self._barrier.wait(10)

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def resource(path: Path, *, autocreate: bool = False) -> Resource:
    return Resource("", str(path), str(path), Engine(), 0.0, False, autocreate)


Take = Callable[[Inodes, Resource], Claim]


def try_to_take(take: Take, inodes: Inodes, wanted: Resource) -> bool:
    try:
        wanted.hold = take(inodes, wanted)
    except Busy:
        return False
    return True


def drop(inodes: Inodes, held: Resource) -> None:
    assert isinstance(held.hold, Claim)
    file_lock.drop(inodes, held, held.hold)
    held.hold = None


def races(inodes: Inodes, pairs: list[tuple[Resource, Resource]]) -> Iterator[Resource]:
    """Let a thread take the first of each pair while the reactor takes the second. Yield who gets the lock."""
    outcomes: dict[int, bool] = {}

    def take_in_thread(number: int) -> None:
        outcomes[number] = try_to_take(file_lock.take_pinned, inodes, pairs[number][0])

    worker = Worker(take_in_thread)
    for number, (slow, fast) in enumerate(pairs):
        worker.start_round()
        # The thread's way takes longer, so it gets a head start, of a different length in each round.
        sum(range(number % 50 * 10))
        granted = try_to_take(file_lock.take, inodes, fast)
        worker.end_round()
        assert granted != outcomes[number], "one of them gets it"
        yield fast if granted else slow
    worker.join()


@pytest.mark.usefixtures("many_switches")
@pytest.mark.parametrize("autocreate", [False, True])
def test_a_thread_and_the_reactor_never_both_get_an_inode(disk: Path, alias: Path, autocreate: bool) -> None:
    inodes = Inodes()
    for granted in races(
        inodes, [(resource(disk), resource(alias, autocreate=autocreate)) for _ in range(ROUNDS)]
    ):
        assert locks_of(os.getpid()) == {(disk.stat().st_dev, disk.stat().st_ino): "WRITE"}
        assert descriptors_of(disk) <= 2
        drop(inodes, granted)
        assert locks_of(os.getpid()) == {}
        assert descriptors_of(disk) == 0
        if not alias.exists():
            os.link(disk, alias)


@pytest.mark.usefixtures("many_switches")
def test_a_thread_and_the_reactor_never_both_get_a_file_that_is_made_for_them(tmp_path: Path) -> None:
    """The thread follows a link to the file, and the reactor uses its name."""
    lease, link = tmp_path / "lease", tmp_path / "link"
    link.symlink_to(lease.name)
    inodes = Inodes()
    for granted in races(
        inodes, [(resource(link, autocreate=True), resource(lease, autocreate=True)) for _ in range(ROUNDS)]
    ):
        assert locks_of(os.getpid()) == {(lease.stat().st_dev, lease.stat().st_ino): "WRITE"}
        drop(inodes, granted)
        assert locks_of(os.getpid()) == {}
        assert inodes.descriptors() == []
        for path in (lease, link):
            path.unlink(missing_ok=True)
        link.symlink_to(lease.name)


@pytest.mark.usefixtures("many_switches")
def test_a_lock_granted_while_a_thread_drops_another_on_the_inode_is_kept(disk: Path, alias: Path) -> None:
    """Closing a descriptor after that would end the new lock (fcntl(2))."""
    inodes = Inodes()
    held = [resource(disk) for _ in range(ROUNDS)]
    worker = Worker(lambda number: drop(inodes, held[number]))
    for number in range(ROUNDS):
        held[number].hold = file_lock.take_pinned(inodes, held[number])
        next_one = resource(alias)
        worker.start_round()
        granted = False
        for _ in range(50):
            granted = granted or try_to_take(file_lock.take, inodes, next_one)
        worker.end_round()
        expected = {(disk.stat().st_dev, disk.stat().st_ino): "WRITE"} if granted else {}
        assert locks_of(os.getpid()) == expected
        assert descriptors_of(disk) == len(expected)
        if granted:
            drop(inodes, next_one)
        assert descriptors_of(disk) == 0
    worker.join()
