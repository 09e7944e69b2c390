"""Taking and dropping one lock: races with others who replace the file, and errors on the way."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel_locks import KernelLock, locked_by_this_process, locks_of, locks_on
from tests.locks.outsider import Outsider
from tests.uncompiled import uncompiled

# The classes that meddle below are subclasses, which compiled classes cannot have.
with uncompiled():
    from lockd.locks import posix
    from lockd.locks.errors import Busy, SystemCallFailed
    from lockd.locks.errors import Outsider as Outside
    from lockd.locks.inodes import Claim, Inodes
    from lockd.locks.resource import Resource

BY_EITHER_THREAD = pytest.mark.parametrize("take", [Resource.take, Resource.take_pinned])


class Meddled(Inodes):
    """Inodes where somebody else does something just after a file was opened, as often as there is something."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        super().__init__()
        self.acts = list(acts)

    def create(self, path: str, holder: object, lock: Callable[[int], None]) -> Claim | None:
        def meddle_and_lock(fd: int) -> None:
            self._act()
            lock(fd)

        return super().create(path, holder, meddle_and_lock)

    def open(self, path: str, flags: int, holder: object) -> Claim:
        return self._meddle(super().open(path, flags, holder))

    def open_pinned(self, path: str, flags: int, holder: object) -> Claim:
        return self._meddle(super().open_pinned(path, flags, holder))

    def _meddle(self, claim: Claim) -> Claim:
        self._act()
        return claim

    def _act(self) -> None:
        if self.acts:
            self.acts.pop(0)()


class Complaining(Inodes):
    """Inodes on a file system that reports an error when a file is closed, as a network's may."""

    def close(self, claim: Claim) -> None:
        super().close(claim)
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def resource(path: Path, *, shared: bool = False, autocreate: bool = False) -> Resource:
    return Resource("", str(path), str(path), shared=shared, autocreate=autocreate)


def replace(path: Path) -> None:
    path.unlink()
    path.touch()


def open_descriptors(directory: Path) -> list[str]:
    """What this process has open below a directory."""
    links = []
    for entry in os.listdir("/proc/self/fd"):
        path = Path(f"/proc/self/fd/{entry}")
        if path.is_symlink():
            links.append(os.readlink(path))
    return [link for link in links if link.startswith(f"{directory}/")]


@BY_EITHER_THREAD
def test_a_file_replaced_before_it_was_locked_is_given_up_for_the_new_one(
    take: Callable[[Resource, Inodes], None], tmp_path: Path
) -> None:
    """The AUTOCREATE race: whoever had the file before removes it on release, and somebody makes another."""
    path = tmp_path / "lease"
    inodes = Meddled(lambda: replace(path), path.unlink)
    lease = resource(path, autocreate=True)
    take(lease, inodes)
    assert locks_on(path) == [KernelLock("WRITE", os.getpid())]
    assert len(locks_of(os.getpid())) == 1
    assert open_descriptors(tmp_path) == [str(path)]
    lease.drop(inodes)
    assert not path.exists()
    assert not open_descriptors(tmp_path)


def test_without_autocreate_the_opened_file_is_locked_whatever_its_name_is_now(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    inodes = Meddled(lambda: path.rename(tmp_path / "renamed"))
    disk = resource(path)
    disk.take(inodes)
    assert locks_on(tmp_path / "renamed") == [KernelLock("WRITE", os.getpid())]
    disk.drop(inodes)


@BY_EITHER_THREAD
def test_a_path_that_cannot_be_followed_any_more_is_an_error_that_names_it(
    take: Callable[[Resource, Inodes], None], tmp_path: Path
) -> None:
    path = tmp_path / "leases" / "lease"
    path.parent.mkdir()
    path.touch()

    def replace_directory() -> None:
        path.parent.rename(tmp_path / "old")
        path.parent.touch()

    with pytest.raises(SystemCallFailed, match=f"Unable to check resource {path}: Not a directory") as caught:
        take(resource(path, autocreate=True), Meddled(replace_directory))
    assert caught.value.errno == errno.ENOTDIR
    assert not open_descriptors(tmp_path)


@BY_EITHER_THREAD
def test_an_error_on_closing_does_not_hide_why_the_lock_was_refused(
    take: Callable[[Resource, Inodes], None], tmp_path: Path, outsider: Outsider
) -> None:
    path = tmp_path / "disk"
    path.touch()
    assert outsider.lock(path, "READ")
    with pytest.raises(Busy) as caught:
        take(resource(path), Complaining())
    assert caught.value.holder == Outside(outsider.pid, str(path))
    assert not open_descriptors(tmp_path)


def test_an_error_on_closing_does_not_keep_a_replaced_file_from_being_given_up(tmp_path: Path) -> None:
    path = tmp_path / "lease"

    class Both(Meddled, Complaining):
        pass

    lease = resource(path, autocreate=True)
    inodes = Both(lambda: replace(path))
    lease.take(inodes)
    assert locks_on(path) == [KernelLock("WRITE", os.getpid())]
    with pytest.raises(OSError, match="Input/output error"):
        lease.drop(inodes)
    assert lease.claim is None
    assert locks_on(path) == []


def test_a_file_put_in_the_place_of_the_locked_one_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    inodes = Inodes()
    lease = resource(path, autocreate=True)
    lease.take(inodes)
    replace(path)
    lease.drop(inodes)
    assert path.exists()


def test_a_file_that_is_gone_already_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    inodes = Inodes()
    lease = resource(path, autocreate=True)
    lease.take(inodes)
    path.unlink()
    lease.drop(inodes)
    assert not open_descriptors(tmp_path)


def test_a_shared_file_is_removed_only_by_the_last_one_on_any_host(
    tmp_path: Path, outsider: Outsider
) -> None:
    path = tmp_path / "lease"
    for shared_outside in (True, False):
        inodes = Inodes()
        lease = resource(path, shared=True, autocreate=True)
        lease.take(inodes)
        if shared_outside:
            assert outsider.lock(path, "READ")
        lease.drop(inodes)
        assert path.exists() == shared_outside
        outsider.unlock_all()


def test_a_file_that_was_there_before_stays_where_it_is_locked_without_autocreate(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    inodes = Inodes()
    disk = resource(path)
    disk.take(inodes)
    disk.drop(inodes)
    assert path.exists()


def test_a_resource_that_was_never_locked_can_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    disk = resource(path)
    with pytest.raises(SystemCallFailed):
        disk.take(Inodes())
    disk.drop(Inodes())


@pytest.mark.parametrize(
    ("mode", "shared", "granted"),
    [("READ", True, True), ("READ", False, False), ("WRITE", True, False), ("WRITE", False, False)],
)
def test_locks_of_other_processes_count(
    mode: str, shared: bool, granted: bool, tmp_path: Path, outsider: Outsider
) -> None:
    path = tmp_path / "disk"
    path.touch()
    assert outsider.lock(path, mode)
    inodes = Inodes()
    disk = resource(path, shared=shared)
    if granted:
        disk.take(inodes)
        disk.drop(inodes)
    else:
        with pytest.raises(Busy, match="is locked") as caught:
            disk.take(inodes)
        assert caught.value.holder == Outside(outsider.pid, str(path))
    assert locks_on(path) == [KernelLock(mode, outsider.pid)]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("missing", errno.ENOENT),
        ("missing/disk", errno.ENOENT),
        ("file/disk", errno.ENOTDIR),
        (".", errno.EISDIR),
    ],
)
@BY_EITHER_THREAD
def test_what_cannot_be_opened_is_named_with_the_reason(
    take: Callable[[Resource, Inodes], None], name: str, number: int, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    path = f"{tmp_path}/{name}"
    with pytest.raises(SystemCallFailed) as caught:
        take(Resource("", path, path, shared=False, autocreate=False), Inodes())
    assert str(caught.value) == f"Unable to open resource {path}: {os.strerror(number)}"
    assert (caught.value.errno, caught.value.creating_file) == (number, False)


def test_what_cannot_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "lease"
    with pytest.raises(SystemCallFailed, match=f"Unable to open/create resource {path}: No such file"):
        resource(path, autocreate=True).take(Inodes())


def test_a_link_is_left_to_a_worker_thread(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("disk")
    (tmp_path / "disk").touch()
    with pytest.raises(SystemCallFailed) as caught:
        resource(link).take(Inodes())
    assert caught.value.errno == errno.ELOOP
    inodes = Inodes()
    disk = resource(link)
    disk.take_pinned(inodes)
    assert locks_on(tmp_path / "disk") == [KernelLock("WRITE", os.getpid())]
    disk.drop(inodes)


def test_a_file_with_a_lease_on_it_is_left_to_a_worker_thread(tmp_path: Path) -> None:
    """Opening waits up to 45 s for the lease's holder: /proc/sys/fs/lease-break-time."""
    path = tmp_path / "disk"
    path.touch()
    held = os.open(path, os.O_RDWR)
    try:
        # The signal that asks for the lease, SIGIO, would end this process (fcntl(2)).
        fcntl.fcntl(held, fcntl.F_SETSIG, 23)  # SIGURG, which is ignored
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(SystemCallFailed) as caught:
            resource(path).take(Inodes())
        assert caught.value.errno == errno.EAGAIN
    finally:
        os.close(held)


def test_a_lock_taken_over_is_held_against_the_kernel(tmp_path: Path, outsider: Outsider) -> None:
    path = tmp_path / "disk"
    path.touch()
    inodes = Inodes()
    disk = resource(path)
    disk.check_adopted({}, listed=True)
    assert disk.doubt is None

    disk.claim = inodes.adopt(os.open(path, os.O_RDWR), disk)
    disk.check_adopted(posix.held_locks(), listed=True)
    assert disk.doubt == "the lock was lost, and taken again"
    assert locks_on(path) == [KernelLock("WRITE", os.getpid())]

    disk.doubt = None
    for held in (posix.held_locks(), {}):
        disk.check_adopted(held, listed=True)
        assert disk.doubt is None

    posix.lock_shared(disk.claim.fd)
    disk.check_adopted(posix.held_locks(), listed=True)
    assert disk.doubt == "the lock was lost, and taken again"
    assert locks_on(path) == [KernelLock("WRITE", os.getpid())]

    held_elsewhere = resource(path)
    held_elsewhere.slow_mount = "/mnt"
    held_elsewhere.claim = disk.claim
    held_elsewhere.check_adopted({}, listed=False)
    assert held_elsewhere.doubt is None

    disk.doubt = None
    disk.doubt = None
    disk.check_path()
    assert disk.doubt is None
    replace(path)
    disk.check_path()
    assert disk.doubt == "the path names another file than the locked one"
    disk.doubt = None
    disk.doubt = None
    path.unlink()
    path.symlink_to(path.name)
    disk.check_path()
    assert disk.doubt == "the path cannot be followed: Too many levels of symbolic links"
    disk.drop(inodes)

    path.unlink()
    path.touch()
    assert outsider.lock(path, "WRITE")
    lost = resource(path)
    lost.claim = inodes.adopt(os.open(path, os.O_RDWR), lost)
    lost.check_adopted(posix.held_locks(), listed=True)
    assert lost.doubt == f"the lock was lost: Lockspace resource '{path}' is locked"
    lost.slow_mount = "/mnt"
    lost.check_adopted(posix.held_locks(), listed=True)
    assert lost.doubt == "the lock was lost"
    lost.drop(inodes)


def test_a_file_that_cannot_be_locked_is_an_error(tmp_path: Path) -> None:
    """A descriptor opened with O_PATH stands for a file system without locks: EBADF from fcntl."""
    path = tmp_path / "disk"
    path.touch()

    class WithoutLocks(Inodes):
        def open(self, path: str, flags: int, holder: object) -> Claim:
            return self.adopt(os.open(path, os.O_PATH), holder)

    with pytest.raises(SystemCallFailed, match=f"Unable to lock resource {path}: Bad file descriptor"):
        resource(path).take(WithoutLocks())


def test_the_locks_of_this_process_do_not_refuse_it(tmp_path: Path) -> None:
    """POSIX locks are the process's: it is the claims that keep two resources apart."""
    path = tmp_path / "disk"
    path.touch()
    with locked_by_this_process(path):
        disk = resource(path)
        disk.take(Inodes())
        assert locks_on(path) == [KernelLock("WRITE", os.getpid())]
