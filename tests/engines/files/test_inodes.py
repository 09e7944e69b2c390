"""Claims: as long as an inode is claimed, none of its descriptors is closed (Invariant 1)."""

import errno
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from sys import getswitchinterval, setswitchinterval

import pytest

from lockd.engines.files import file_lock
from lockd.engines.files.claims import ABANDONED, ORPHANED, BlockDevice, Claim, Claimed, Related
from lockd.engines.files.inodes import Inodes
from lockd.engines.files.lockspaces import create_file, delete_file
from lockd.linux import record_locks
from lockd.linux.block_devices import whole
from lockd.linux.file_identity import identity_of
from lockd.locks.engine import Engine
from lockd.locks.errors import Busy, TryAgain
from lockd.locks.resource import Resource
from tests.kernel_locks import KernelLock, locks_of, locks_on
from tests.lock_fixtures import loop_device
from tests.trouble.hanging_filesystem import can_mount, mounted
from tests.waiting import wait_until
from tests.without_descriptors import without_descriptors

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


def inodes_that_know(*paths: Path) -> Inodes:
    """Return a registry that opens these paths at once: it has opened them before."""
    inodes = Inodes()
    for path in paths:
        inodes.close(inodes.open(str(path), os.O_RDWR, "before"))
    return inodes


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
    inodes = inodes_that_know(disk, alias)
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
    inodes = inodes_that_know(disk, alias)
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
    identity = identity_of(device.stat())
    claim = inodes.open_pinned(str(device), os.O_RDWR, "first", device=identity)
    with pytest.raises(Claimed):
        inodes.open_pinned(str(node), os.O_RDWR, "second", device=identity)
    inodes.close(claim)


def test_a_device_is_opened_only_by_who_is_in_its_queue(device: Path) -> None:
    inodes = Inodes()
    for open_claimed in (inodes.open, inodes.open_pinned, partial(inodes.open_pinned, device=(0, -1))):
        with pytest.raises(BlockDevice) as caught:
            open_claimed(str(device), os.O_RDWR, "first")
        assert caught.value.identity == (device.stat().st_rdev, -1)
    assert inodes.descriptors() == []


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


@pytest.mark.parametrize("target", ["target", "to/target", "../elsewhere/target"])
def test_no_file_is_made_behind_a_link(tmp_path: Path, target: str) -> None:
    """Root would make files wherever the owner of the link wants them."""
    for name in ("leases", "leases/to", "elsewhere"):
        (tmp_path / name).mkdir()
    link = tmp_path / "leases" / "link"
    link.symlink_to(target)
    inodes = Inodes()
    for flags in (os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT):
        with pytest.raises(FileNotFoundError, match="it is a symbolic link to a file that does not exist"):
            inodes.open_pinned(str(link), flags, "first")
    assert not link.exists()
    link.resolve().touch()
    inodes.close(inodes.open_pinned(str(link), os.O_RDWR | os.O_CREAT, "first"))


def test_a_directory_on_the_way_to_a_new_file_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "link").symlink_to("leases")
    inodes = Inodes()
    inodes.close(inodes.open_pinned(f"{tmp_path}/link/x", os.O_RDWR | os.O_CREAT, "first"))
    assert (tmp_path / "leases" / "x").exists()


# What is not opened

Open = Callable[[Inodes, str, int], Claim]


def make_character_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # /dev/null


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def open_at_once(inodes: Inodes, path: str, flags: int) -> Claim:
    return inodes.open(path, flags, "first")


def open_pinned(inodes: Inodes, path: str, flags: int) -> Claim:
    return inodes.open_pinned(path, flags, "first")


@pytest.mark.parametrize(
    ("make", "number", "reason"),
    [
        (make_character_device, errno.ENOTBLK, "it is a character device, neither a regular file nor a block device"),
        (os.mkfifo, errno.ENOTBLK, "it is a pipe, neither a regular file nor a block device"),
        (make_socket, errno.ENXIO, "No such device or address"),
        (os.mkdir, errno.EISDIR, "Is a directory"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("open_claimed", [open_at_once, open_pinned])
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT])
def test_what_is_neither_a_file_nor_a_block_device_is_refused_before_it_is_opened(
    make: Callable[[Path], object], number: int, reason: str, open_claimed: Open, flags: int, tmp_path: Path
) -> None:
    """To open a character device may be an act: /dev/watchdog resets the host."""
    if make is make_character_device and os.geteuid() != 0:
        pytest.skip("making a device node needs root")
    path = tmp_path / "special"
    make(path)
    inodes = Inodes()
    for _ in range(2):
        opened = paths_opened(lambda: refuse(inodes, open_claimed, str(path), flags, number, reason))
        assert all(how & os.O_PATH for how in opened), "it was pinned only"
    assert inodes.descriptors() == []


def test_a_descriptor_without_a_file_is_refused() -> None:
    """A lock on a pidfd would end when another pidfd of the same process is closed."""
    fd = os.pidfd_open(os.getpid())
    try:
        reason = "No such device or address"
        refuse(Inodes(), open_pinned, f"/proc/self/fd/{fd}", os.O_RDWR, errno.ENXIO, reason)
    finally:
        os.close(fd)


def refuse(inodes: Inodes, open_claimed: Open, path: str, flags: int, number: int, reason: str) -> None:
    with pytest.raises(OSError, match=reason) as caught:
        open_claimed(inodes, path, flags)
    assert caught.value.errno == number


def paths_opened(run: Callable[[], object]) -> list[int]:
    """Return the flags of each open(2) that a call makes, as the interpreter's audit has them."""
    flags: list[int] = []
    _listeners.append(flags)
    try:
        run()
    finally:
        _listeners.remove(flags)
    return flags


_listeners: list[list[int]] = []


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _listeners:
        assert isinstance(arguments[2], int)
        for flags in _listeners:
            flags.append(arguments[2])


sys.addaudithook(_listen)


@pytest.mark.skipif(os.geteuid() != 0, reason="making a device node needs root")
def test_what_replaced_a_file_that_was_opened_before_is_refused(disk: Path) -> None:
    inodes = inodes_that_know(disk)
    disk.unlink()
    make_character_device(disk)
    for _ in range(2):
        with pytest.raises(OSError, match="it is a character device"):
            inodes.open(str(disk), os.O_RDWR, "first")
    assert inodes.descriptors() == []
    assert len(paths_opened(lambda: refuse_device(inodes, disk))) == 1


def test_a_block_device_in_place_of_a_file_that_was_opened_before_is_left_to_its_queue(
    disk: Path, device: Path
) -> None:
    """Only its queue opens a block device, and finds out with what it shares its data."""
    inodes = inodes_that_know(disk)
    disk.unlink()
    os.mknod(disk, stat.S_IFBLK | 0o600, device.stat().st_rdev)
    with pytest.raises(BlockDevice) as caught:
        inodes.open(str(disk), os.O_RDWR, "first")
    assert caught.value.identity == identity_of(device.stat())
    assert inodes.descriptors() == []
    assert inodes.holder(caught.value.identity) is None
    assert descriptors_of(disk) == 0


def refuse_device(inodes: Inodes, path: Path) -> None:
    refuse(inodes, open_at_once, str(path), os.O_RDWR, errno.ENOTBLK, "it is a character device")


def test_a_file_is_opened_at_once_the_next_time(disk: Path) -> None:
    inodes = Inodes()

    def use() -> None:
        inodes.close(inodes.open(str(disk), os.O_RDWR, "first"))

    assert len(paths_opened(use)) == 2
    assert [flags & (os.O_PATH | os.O_NOCTTY | os.O_NONBLOCK) for flags in paths_opened(use)] == [
        os.O_NOCTTY | os.O_NONBLOCK
    ]


def test_a_file_in_a_directory_of_everybody_is_always_pinned(disk: Path) -> None:
    """Others may put a link to /dev in the place of the directory."""
    disk.parent.chmod(0o777)
    inodes = inodes_that_know(disk)
    opened = paths_opened(lambda: inodes.close(inodes.open(str(disk), os.O_RDWR, "first")))
    assert len(opened) == 2
    assert opened[0] & os.O_PATH


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


def test_an_abandoned_descriptor_can_be_taken_over_while_closing_another_hangs(
    disk: Path, tmp_path: Path
) -> None:
    if not can_mount():
        pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
    inodes = Inodes()
    with mounted(tmp_path / "server") as server:
        server.make("disk")
        inodes.adopt(os.open(server.path / "disk", os.O_RDWR), ABANDONED)
        inodes.adopt(os.open(disk, os.O_RDWR), ABANDONED)
        server.hang("everything")
        closing = threading.Thread(target=inodes.close_abandoned)
        closing.start()
        wait_until(server.hangs, "closing hangs")
        claim = inodes.open_pinned(str(disk), os.O_RDWR, "guest")
        server.release_all()
        closing.join(10)
        assert descriptors_of(disk) == 1
        inodes.close(claim)
    assert inodes.descriptors() == []


def test_a_descriptor_that_stays_abandoned_is_closed(disk: Path) -> None:
    inodes = Inodes()
    inodes.adopt(os.open(disk, os.O_RDWR), ABANDONED)
    inodes.close_abandoned()
    assert descriptors_of(disk) == 0
    inodes.close(inodes.open(str(disk), os.O_RDWR, "first"))


@pytest.mark.parametrize("holder", [ABANDONED, ORPHANED])
def test_an_inherited_device_keeps_others_from_its_data(device: Path, tmp_path: Path, holder: str) -> None:
    """There may be a lock on it."""
    image, device_identity = tmp_path / "device.img", identity_of(device.stat())
    with loop_device(image) as other:
        inodes = Inodes()
        claim = inodes.adopt(os.open(device, os.O_RDWR), holder)
        open_other = partial(
            inodes.open_pinned, str(other), os.O_RDWR, "first", device=identity_of(other.stat())
        )
        open_image = partial(inodes.open, str(image), os.O_RDWR, "second")
        # To look at the file of a loop device may block, so that is done later.
        assert inodes.to_locate() == [claim]
        assert inodes.extents(claim) is None
        inodes.locate(claim)
        assert inodes.to_locate() == []
        assert inodes.extents(claim) == frozenset(map(whole, (device_identity, identity_of(image.stat()))))
        for _ in range(2):
            for open_related in (open_other, open_image):
                with pytest.raises(Related) as caught:
                    open_related()
                assert caught.value.claim is claim
        if holder is ABANDONED:
            again = inodes.open_pinned(str(device), os.O_RDWR, "third", device=device_identity)
            assert again is claim
        inodes.close(claim)
        inodes.close(open_other())
        inodes.close(open_image())
        assert inodes.descriptors() == []


def test_an_inherited_device_is_looked_at_later_if_there_is_no_descriptor_now(device: Path) -> None:
    inodes = Inodes()
    fd = os.open(device, os.O_RDWR)
    with without_descriptors():
        claim = inodes.adopt(fd, ORPHANED)
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            inodes.locate(claim)
    assert inodes.to_locate() == [claim]
    inodes.locate(claim)
    assert inodes.to_locate() == []
    inodes.close(claim)


def test_an_inherited_device_that_is_closed_before_it_is_located_is_in_nobody_s_way(
    device: Path, tmp_path: Path
) -> None:
    inodes = Inodes()
    claim = inodes.adopt(os.open(device, os.O_RDWR), ABANDONED)
    inodes.close_abandoned()
    assert inodes.to_locate() == []
    inodes.locate(claim)
    inodes.close(inodes.open(str(tmp_path / "device.img"), os.O_RDWR, "first"))


def test_an_abandoned_device_stays_related_if_it_cannot_be_taken_over(device: Path, tmp_path: Path) -> None:
    image, identity = tmp_path / "device.img", identity_of(device.stat())
    inodes = inodes_that_know(image)
    held = inodes.open(str(image), os.O_RDWR, "first")
    abandoned = inodes.adopt(os.open(device, os.O_RDWR), ABANDONED)
    with pytest.raises(Related) as caught:
        inodes.open_pinned(str(device), os.O_RDWR, "second", device=identity)
    assert caught.value.claim is held
    inodes.close(held)
    with pytest.raises(Related) as caught:
        inodes.open(str(image), os.O_RDWR, "third")
    assert caught.value.claim is abandoned
    inodes.close_abandoned()
    inodes.close(inodes.open(str(image), os.O_RDWR, "third"))


def test_a_log_on_a_device_keeps_others_from_its_data(device: Path, tmp_path: Path) -> None:
    inodes = Inodes()
    claim = inodes.open_pinned(str(device), os.O_WRONLY, None, lockable=False)
    with pytest.raises(Related) as caught:
        inodes.open(str(tmp_path / "device.img"), os.O_RDWR, "first")
    assert caught.value.claim is claim
    inodes.close(claim)


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
    except (Busy, TryAgain):
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
    inodes = inodes_that_know(disk, alias)
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
    """The thread comes by a link to the directory, and the reactor uses its name."""
    lease, link = tmp_path / "leases" / "lease", tmp_path / "link" / "lease"
    lease.parent.mkdir()
    link.parent.symlink_to("leases")
    lease.touch()
    inodes = inodes_that_know(lease, link)
    lease.unlink()
    for granted in races(
        inodes, [(resource(link, autocreate=True), resource(lease, autocreate=True)) for _ in range(ROUNDS)]
    ):
        assert locks_of(os.getpid()) == {(lease.stat().st_dev, lease.stat().st_ino): "WRITE"}
        drop(inodes, granted)
        assert locks_of(os.getpid()) == {}
        assert inodes.descriptors() == []
        assert not lease.exists()


@pytest.mark.usefixtures("many_switches")
def test_a_lock_granted_while_a_thread_drops_another_on_the_inode_is_kept(disk: Path, alias: Path) -> None:
    """Closing a descriptor after that would end the new lock (fcntl(2))."""
    inodes = inodes_that_know(disk, alias)
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


@pytest.mark.usefixtures("many_switches")
def test_a_new_file_is_not_refused_for_a_removed_one_whose_number_it_has(tmp_path: Path) -> None:
    """ext4 and others give the number of a removed file to the next new one, at once."""
    inodes = Inodes()

    def take_and_drop(path: Path, take: Take) -> None:
        lease = resource(path, autocreate=True)
        with suppress(TryAgain):
            lease.hold = take(inodes, lease)
            drop(inodes, lease)

    refused: list[Busy] = []

    def take_in_thread(number: int) -> None:
        for _ in range(10):
            try:
                take_and_drop(tmp_path / "slow", file_lock.take_pinned)
            except Busy as busy:
                refused.append(busy)

    worker = Worker(take_in_thread)
    for _ in range(ROUNDS):
        worker.start_round()
        for _ in range(10):
            take_and_drop(tmp_path / "fast", file_lock.take)
        worker.end_round()
    worker.join()
    assert refused == []
