"""Taking and dropping the lock of one file: races with others who replace the file, and errors."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel_locks import KernelLock, locked_by_this_process, locks_of, locks_on
from tests.outsider import Outsider
from tests.uncompiled import uncompiled

# Tests below subclass Inodes. Interpreted classes cannot inherit from compiled ones.
with uncompiled():
    from lockd.engines.files import file_lock
    from lockd.engines.files.claims import Claim
    from lockd.engines.files.inodes import Inodes
    from lockd.linux.file_identity import Identity
    from lockd.locks.engine import Engine
    from lockd.locks.errors import Busy, SystemCallFailed, TryAgain
    from lockd.locks.errors import Outsider as Outside
    from lockd.locks.resource import Resource

Take = Callable[[Inodes, Resource], Claim]

BY_EITHER_THREAD = pytest.mark.parametrize("take", [file_lock.take, file_lock.take_pinned])


class Meddled(Inodes):
    """Inodes for which somebody else acts just after a file was opened.

    :param acts: what they do, one after each opening.
    """

    def __init__(self, *acts: Callable[[], object]) -> None:
        super().__init__()
        self.acts = list(acts)

    def create(self, path: str, holder: Resource, lock: Callable[[int, Resource], None]) -> Claim | None:
        def meddle_and_lock(fd: int, holder: Resource) -> None:
            self._act()
            lock(fd, holder)

        return super().create(path, holder, meddle_and_lock)

    def open(self, path: str, flags: int, holder: object) -> Claim:
        acts, self.acts = self.acts, []  # ``open`` may call ``open_pinned``
        try:
            claim = super().open(path, flags, holder)
        finally:
            self.acts = acts
        return self._meddle(claim)

    def open_pinned(
        self,
        path: str,
        flags: int,
        holder: object,
        *,
        lockable: bool = True,
        device: Identity | None = None,
    ) -> Claim:
        return self._meddle(super().open_pinned(path, flags, holder, lockable=lockable, device=device))

    def _meddle(self, claim: Claim) -> Claim:
        self._act()
        return claim

    def _act(self) -> None:
        if self.acts:
            self.acts.pop(0)()


class Complaining(Inodes):
    """Inodes on a file system that reports an error when a file is closed, as a network file system may."""

    def close(self, claim: Claim) -> None:
        super().close(claim)
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def resource(path: Path | str, *, shared: bool = False, autocreate: bool = False) -> Resource:
    return Resource("", str(path), str(path), Engine(), 0.0, shared, autocreate)


def replace(path: Path) -> None:
    path.unlink()
    path.touch()


def open_descriptors(directory: Path) -> list[str]:
    """Return the paths of the files in a directory that this process has open, once for each descriptor."""
    links = []
    for entry in os.listdir("/proc/self/fd"):
        path = Path(f"/proc/self/fd/{entry}")
        if path.is_symlink():
            links.append(os.readlink(path))
    return [link for link in links if link.startswith(f"{directory}/")]


@BY_EITHER_THREAD
def test_a_file_replaced_before_it_was_locked_is_given_up_for_the_new_one(take: Take, tmp_path: Path) -> None:
    """The AUTOCREATE race: the holder before removes the file on release, and somebody makes another one."""
    path = tmp_path / "lease"
    inodes = Meddled(lambda: replace(path), path.unlink)
    lease = resource(path, autocreate=True)
    claim = take(inodes, lease)
    assert locks_on(path) == [KernelLock("WRITE", os.getpid())]
    assert len(locks_of(os.getpid())) == 1
    assert open_descriptors(tmp_path) == [str(path)]
    file_lock.drop(inodes, lease, claim)
    assert not path.exists()
    assert not open_descriptors(tmp_path)


def test_without_autocreate_the_opened_file_is_locked_whatever_its_name_is_now(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    inodes = Meddled(lambda: path.rename(tmp_path / "renamed"))
    disk = resource(path)
    claim = file_lock.take(inodes, disk)
    assert locks_on(tmp_path / "renamed") == [KernelLock("WRITE", os.getpid())]
    file_lock.drop(inodes, disk, claim)


@BY_EITHER_THREAD
def test_a_path_that_cannot_be_followed_any_more_is_an_error_that_names_it(
    take: Take, tmp_path: Path
) -> None:
    path = tmp_path / "leases" / "lease"
    path.parent.mkdir()
    path.touch()

    def replace_directory() -> None:
        path.parent.rename(tmp_path / "old")
        path.parent.touch()

    with pytest.raises(SystemCallFailed, match=f"Unable to check resource {path}: Not a directory") as caught:
        take(Meddled(replace_directory), resource(path, autocreate=True))
    assert caught.value.errno == errno.ENOTDIR
    assert not open_descriptors(tmp_path)


@BY_EITHER_THREAD
def test_an_error_on_closing_does_not_hide_why_the_lock_was_refused(
    take: Take, tmp_path: Path, outsider: Outsider
) -> None:
    path = tmp_path / "disk"
    path.touch()
    assert outsider.lock(path, "READ")
    with pytest.raises(Busy) as caught:
        take(Complaining(), resource(path))
    assert caught.value.holder == Outside(outsider.pid, str(path))
    assert not open_descriptors(tmp_path)


def test_an_error_on_closing_does_not_keep_a_replaced_file_from_being_given_up(tmp_path: Path) -> None:
    path = tmp_path / "lease"

    class Both(Meddled, Complaining):
        pass

    lease = resource(path, autocreate=True)
    inodes = Both(lambda: replace(path))
    claim = file_lock.take(inodes, lease)
    assert locks_on(path) == [KernelLock("WRITE", os.getpid())]
    with pytest.raises(OSError, match="Input/output error"):
        file_lock.drop(inodes, lease, claim)
    assert inodes.holder(claim.identity) is None
    assert inodes.descriptors() == []
    assert locks_on(path) == []


def test_a_file_put_in_the_place_of_the_locked_one_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    inodes = Inodes()
    lease = resource(path, autocreate=True)
    claim = file_lock.take(inodes, lease)
    replace(path)
    file_lock.drop(inodes, lease, claim)
    assert path.exists()


def test_a_file_that_is_gone_already_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    inodes = Inodes()
    lease = resource(path, autocreate=True)
    claim = file_lock.take(inodes, lease)
    path.unlink()
    file_lock.drop(inodes, lease, claim)
    assert not open_descriptors(tmp_path)


def test_a_shared_file_is_removed_only_by_the_last_one_on_any_host(
    tmp_path: Path, outsider: Outsider
) -> None:
    path = tmp_path / "lease"
    for shared_outside in (True, False):
        inodes = Inodes()
        lease = resource(path, shared=True, autocreate=True)
        claim = file_lock.take(inodes, lease)
        if shared_outside:
            assert outsider.lock(path, "READ")
        file_lock.drop(inodes, lease, claim)
        assert path.exists() == shared_outside
        outsider.unlock_all()


def test_a_file_that_was_there_before_stays_where_it_is_locked_without_autocreate(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    inodes = Inodes()
    disk = resource(path)
    claim = file_lock.take(inodes, disk)
    file_lock.drop(inodes, disk, claim)
    assert path.exists()


@BY_EITHER_THREAD
def test_a_lock_that_could_not_be_taken_leaves_nothing_to_drop(take: Take, tmp_path: Path) -> None:
    inodes = Inodes()
    disk = resource(tmp_path / "disk")
    with pytest.raises(SystemCallFailed):
        take(inodes, disk)
    assert disk.hold is None
    assert inodes.descriptors() == []


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
        claim = file_lock.take(inodes, disk)
        file_lock.drop(inodes, disk, claim)
    else:
        with pytest.raises(Busy, match="is locked") as caught:
            file_lock.take(inodes, disk)
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
    take: Take, name: str, number: int, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    path = f"{tmp_path}/{name}"
    with pytest.raises(SystemCallFailed) as caught:
        take(Inodes(), resource(path))
    assert str(caught.value) == f"Unable to open resource {path}: {os.strerror(number)}"
    assert (caught.value.errno, caught.value.creating_file) == (number, False)


def test_what_cannot_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "lease"
    with pytest.raises(SystemCallFailed, match=f"Unable to open/create resource {path}: No such file"):
        file_lock.take(Inodes(), resource(path, autocreate=True))


def test_a_link_is_left_to_a_worker_thread(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("disk")
    (tmp_path / "disk").touch()
    with pytest.raises(SystemCallFailed) as caught:
        file_lock.take(Inodes(), resource(link))
    assert caught.value.errno == errno.ELOOP
    inodes = Inodes()
    disk = resource(link)
    claim = file_lock.take_pinned(inodes, disk)
    assert locks_on(tmp_path / "disk") == [KernelLock("WRITE", os.getpid())]
    file_lock.drop(inodes, disk, claim)


@BY_EITHER_THREAD
def test_a_file_with_a_lease_on_it_can_be_tried_again(tmp_path: Path, take: Take) -> None:
    path = tmp_path / "disk"
    path.touch()
    held = os.open(path, os.O_RDWR)
    try:
        # The signal that asks for the lease, SIGIO, would end this process (fcntl(2)).
        fcntl.fcntl(held, fcntl.F_SETSIG, 23)  # SIGURG, which is ignored
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        inodes = Inodes()
        with pytest.raises(TryAgain) as caught:
            take(inodes, resource(path))
        assert caught.value.seconds == int(Path("/proc/sys/fs/lease-break-time").read_text())
        assert str(caught.value.refusal) == f"Unable to open resource {path}: {os.strerror(errno.EAGAIN)}"
        assert inodes.descriptors() == []
    finally:
        os.close(held)


def test_a_file_that_cannot_be_locked_is_an_error(tmp_path: Path) -> None:
    """A descriptor opened with O_PATH stands in for a file system without locks: fcntl(2) fails on it."""
    path = tmp_path / "disk"
    path.touch()

    class WithoutLocks(Inodes):
        def open(self, path: str, flags: int, holder: object) -> Claim:
            return self.adopt(os.open(path, os.O_PATH), holder)

    with pytest.raises(SystemCallFailed, match=f"Unable to acquire lock on '{path}': Bad file descriptor"):
        file_lock.take(WithoutLocks(), resource(path))


def test_a_lock_of_this_process_does_not_make_the_file_busy(tmp_path: Path) -> None:
    """POSIX locks belong to the process, so the kernel grants both. Claims keep two resources apart."""
    path = tmp_path / "disk"
    path.touch()
    with locked_by_this_process(path):
        disk = resource(path)
        file_lock.take(Inodes(), disk)
        assert locks_on(path) == [KernelLock("WRITE", os.getpid())]
