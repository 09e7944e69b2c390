"""Adopted locks are compared with those that the kernel lists, and with the files that their paths name."""

import json
import os
import stat
from pathlib import Path

import pytest

from lockd.engines.files.claims import Claim
from lockd.engines.files.engine import FilesEngine
from lockd.engines.files.inodes import Inodes
from lockd.engines.files.slow_mounts import SlowMounts
from lockd.linux import record_locks
from lockd.linux.mount_table import Mount, parse
from lockd.locks.engine import Hold, Later
from lockd.locks.errors import Busy, SystemCallFailed
from lockd.locks.resource import LOST, Resource
from tests.kernel_locks import KernelLock, locks_on
from tests.lock_fixtures import mount_local, mountinfo, slow_mounts
from tests.outsider import Outsider


class Adopted:
    """A file on which the program before this one may have left a lock.

    :param mounts: which paths may block. By default none does.
    """

    def __init__(self, path: Path, mounts: SlowMounts | None = None) -> None:
        self.inodes = Inodes()
        self.mounts = mounts or slow_mounts({})
        self.engine = FilesEngine(self.inodes, self.mounts)
        self.path = path
        self.path.touch()

    def resource(self, *, shared: bool = False, autocreate: bool = False) -> Resource:
        return Resource("", str(self.path), str(self.path), self.engine, 0.0, shared, autocreate)

    def adopt(self, resource: Resource) -> Claim:
        """Adopt a descriptor of the file by which no lock was taken."""
        resource.hold = hold = self.engine.adopt(resource, {"fd": os.open(self.path, os.O_RDWR)})
        assert isinstance(hold, Claim)
        return hold

    def drop(self, resource: Resource) -> None:
        later = self.engine.drop(resource)
        if later is not None:
            later.work()
        assert locks_on(self.path) == []


OWN_LOCK = [KernelLock("WRITE", os.getpid())]


@pytest.fixture
def adopted(tmp_path: Path) -> Adopted:
    return Adopted(tmp_path / "disk")


def test_a_lost_lock_is_taken_again(adopted: Adopted) -> None:
    disk = adopted.resource()
    adopted.adopt(disk)
    assert locks_on(adopted.path) == []
    adopted.engine.check([disk])
    assert disk.doubt == LOST == "the lock was lost, and taken again"
    assert locks_on(adopted.path) == OWN_LOCK
    disk.doubt = None
    adopted.engine.check([disk])
    assert disk.doubt is None
    adopted.drop(disk)


def test_a_lock_that_is_only_shared_is_taken_again_exclusively(adopted: Adopted) -> None:
    disk = adopted.resource()
    record_locks.lock_shared(adopted.adopt(disk).fd)
    adopted.engine.check([disk])
    assert disk.doubt == "the lock was lost, and taken again"
    assert locks_on(adopted.path) == OWN_LOCK
    adopted.drop(disk)


def test_a_lock_that_is_exclusive_is_taken_again_as_a_shared_one(adopted: Adopted) -> None:
    disk = adopted.resource(shared=True)
    record_locks.lock_exclusive(adopted.adopt(disk).fd)
    adopted.engine.check([disk])
    assert disk.doubt == "the lock was lost, and taken again"
    assert locks_on(adopted.path) == [KernelLock("READ", os.getpid())]
    adopted.drop(disk)


@pytest.mark.parametrize("shared", [False, True])
def test_a_lock_that_is_held_is_not_in_doubt(adopted: Adopted, shared: bool) -> None:
    disk = adopted.resource(shared=shared)
    fd = adopted.adopt(disk).fd
    if shared:
        record_locks.lock_shared(fd)
    else:
        record_locks.lock_exclusive(fd)
    adopted.engine.check([disk])
    assert disk.doubt is None
    adopted.drop(disk)


def test_a_lock_that_is_listed_with_another_device_number_is_found_by_its_descriptor(
    adopted: Adopted,
) -> None:
    """As on btrfs, whose device number in /proc/locks is not the one that stat(2) returns."""
    disk = adopted.resource()
    claim = adopted.inodes.adopt(os.open(adopted.path, os.O_RDWR), disk, (1, 2))
    disk.hold = claim
    record_locks.lock_exclusive(claim.fd)
    adopted.engine.check([disk])
    assert disk.doubt is None
    adopted.drop(disk)


def test_a_lock_on_a_block_device_is_found_by_its_descriptor(device: Path) -> None:
    adopted = Adopted(device)
    disk = adopted.resource()
    record_locks.lock_exclusive(adopted.adopt(disk).fd)
    adopted.engine.check([disk])
    assert disk.doubt is None
    adopted.drop(disk)


def test_nothing_is_known_of_a_lock_that_the_kernel_does_not_list(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path / "disk", slow_mounts({str(tmp_path): "fuse.sshfs"}))
    disk = adopted.resource()
    adopted.adopt(disk)
    assert disk.queue == str(tmp_path)
    adopted.engine.check([disk])
    assert disk.doubt is None
    adopted.drop(disk)


def test_what_the_kernel_lists_depends_on_where_the_path_has_led(tmp_path: Path) -> None:
    """The queue of the lock is then the directory of the user who can have the path lead anywhere."""
    path = tmp_path / "disk"
    adopted = Adopted(path)
    device, inode = path.stat().st_dev, path.stat().st_ino
    root = Mount(1, 0, 1, "/", "ext4", "none", "")
    adopted.mounts.refresh([root, Mount(2, 1, device, "/mnt", "fuse.sshfs", "server", "")])
    disk = adopted.resource()
    facts = {
        "fd": os.open(path, os.O_RDWR),
        "slow_mount": str(tmp_path),
        "identity": [device, inode],
    }
    disk.hold = adopted.engine.adopt(disk, facts)
    assert adopted.engine.check([disk]) == []
    assert disk.doubt is None
    adopted.drop(disk)


def test_a_lost_lock_is_taken_again_by_a_worker_thread_if_that_may_block(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path / "disk", slow_mounts({str(tmp_path): "nfs4"}))
    disk = adopted.resource()
    claim = adopted.adopt(disk)
    ((to_take, later),) = adopted.engine.check([disk])
    assert to_take is disk
    assert later.queue == str(tmp_path)
    assert disk.doubt == "the lock was lost, and is being taken again"
    assert locks_on(adopted.path) == []
    assert later.work() is claim
    assert locks_on(adopted.path) == OWN_LOCK
    adopted.drop(disk)


def test_what_stands_for_a_lost_lock_is_no_lock(adopted: Adopted) -> None:
    disk = adopted.resource()
    disk.hold = adopted.engine.lost(disk)
    assert not adopted.engine.holds(disk)
    assert adopted.engine.check([disk]) == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        adopted.engine.adopt(adopted.resource(), adopted.engine.describe(disk))
    assert adopted.engine.drop(disk) is None


def test_a_lost_lock_that_somebody_else_has_taken_is_in_doubt(adopted: Adopted, outsider: Outsider) -> None:
    assert outsider.lock(adopted.path, "WRITE")
    disk = adopted.resource()
    adopted.adopt(disk)
    adopted.engine.check([disk])
    assert disk.doubt == f"the lock was lost: Lockspace resource '{adopted.path}' is locked"
    assert locks_on(adopted.path) == [KernelLock("WRITE", outsider.pid)]
    assert adopted.engine.drop(disk) is None
    assert locks_on(adopted.path) == [KernelLock("WRITE", outsider.pid)]


def test_a_descriptor_that_cannot_be_looked_at_leaves_the_lock_in_doubt(adopted: Adopted) -> None:
    disk = adopted.resource()
    os.close(adopted.adopt(disk).fd)
    adopted.engine.check([disk])
    assert disk.doubt == "the kernel says nothing of the lock: No such file or directory"


def test_a_path_that_names_no_longer_the_locked_file_is_a_doubt(adopted: Adopted) -> None:
    disk = adopted.resource()
    adopted.adopt(disk)
    assert adopted.engine.path_doubt(disk) is None
    adopted.path.unlink()
    assert adopted.engine.path_doubt(disk) == "the path names no file any more"
    adopted.path.touch()
    assert adopted.engine.path_doubt(disk) == "the path names another file than the locked one"
    adopted.path.unlink()
    # A link is not followed here: it may lead to a server that hangs.
    adopted.path.symlink_to(adopted.path.name)
    assert adopted.engine.path_doubt(disk) == "the path names another file than the locked one"
    assert adopted.engine.drop(disk) is None


def test_a_directory_that_is_hidden_by_a_slow_mount_is_looked_at_by_a_worker_thread(tmp_path: Path) -> None:
    mounts = slow_mounts({})
    adopted = Adopted(tmp_path / "lease", mounts)
    lease = adopted.resource(autocreate=True)
    adopted.adopt(lease)
    mounts.refresh(parse(mountinfo({str(tmp_path): "nfs4"})))
    assert isinstance(adopted.engine.path_doubt(lease), Later)
    assert isinstance(adopted.engine.drop(lease), Later)
    adopted.drop(lease)


def test_an_adopted_path_that_is_a_link_is_followed_by_a_worker_thread(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path / "disk")
    link = tmp_path / "link"
    link.symlink_to(adopted.path)
    disk = Resource("", str(link), str(link), adopted.engine, 0.0, shared=False, autocreate=False)
    adopted.adopt(disk)
    later = adopted.engine.path_doubt(disk)
    assert isinstance(later, Later)
    assert later.work() is None
    adopted.drop(disk)


def test_a_path_that_may_block_is_followed_by_a_worker_thread(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path / "disk", slow_mounts({str(tmp_path): "nfs4"}))
    disk = adopted.resource()
    adopted.adopt(disk)
    adopted.path.unlink()
    later = adopted.engine.path_doubt(disk)
    assert isinstance(later, Later)
    assert later.queue == str(tmp_path)
    assert later.work() == "the path names no file any more"
    adopted.drop(disk)


def test_a_lease_is_not_taken_anew_on_another_file_system(tree: Path) -> None:
    """The directory of the leases was unmounted, or is hidden: other hosts may still see the old file."""
    leases = mount_local(tree / "leases")
    adopted = Adopted(leases / "lease")
    lease = adopted.resource(autocreate=True)
    record_locks.lock_exclusive(adopted.adopt(lease).fd)
    mount_local(leases)
    with pytest.raises(SystemCallFailed, match="it is on another file system now"):
        adopted.engine.take_anew(lease).work()
    assert list(leases.iterdir()) == []
    assert adopted.engine.holds(lease)
    assert adopted.engine.drop(lease) is None


def test_a_lease_is_not_taken_anew_behind_a_link_to_another_file_system(tree: Path, tmp_path: Path) -> None:
    adopted = Adopted(tree / "lease")
    lease = adopted.resource(autocreate=True)
    record_locks.lock_exclusive(adopted.adopt(lease).fd)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    adopted.path.unlink()
    adopted.path.symlink_to(elsewhere)
    with pytest.raises(SystemCallFailed, match="it is on another file system now"):
        adopted.engine.take_anew(lease).work()
    assert locks_on(elsewhere) == []
    assert adopted.engine.holds(lease)
    assert adopted.engine.drop(lease) is None


def test_a_block_device_in_place_of_a_lease_is_not_locked(adopted: Adopted, device: Path) -> None:
    lease = adopted.resource(autocreate=True)
    record_locks.lock_exclusive(adopted.adopt(lease).fd)
    adopted.path.unlink()
    adopted.path.symlink_to(device)
    with pytest.raises(SystemCallFailed, match="it is a block device now"):
        adopted.engine.take_anew(lease).work()
    assert adopted.engine.holds(lease)
    assert adopted.engine.drop(lease) is None


def test_what_a_device_is_related_to_is_handed_over(adopted: Adopted, device: Path, tmp_path: Path) -> None:
    """The next program cannot ask for the file of a loop device that is on a slow file system."""
    image = tmp_path / "device.img"
    disk = Resource("", str(device), str(device), adopted.engine, 0.0, shared=False, autocreate=False)
    work = adopted.engine.take(disk)
    while isinstance(work, Later):
        work = work.work()
    disk.hold = work
    facts = adopted.engine.describe(disk) | {"fd": os.open(device, os.O_RDWR)}
    after = Adopted(tmp_path / "other", slow_mounts({str(tmp_path): "nfs4"}))
    same = Resource("", str(device), str(device), after.engine, 0.0, shared=False, autocreate=False)
    same.hold = after.engine.adopt(same, json.loads(json.dumps(facts)))
    backing = Resource("", str(image), str(image), after.engine, 0.0, shared=False, autocreate=False)
    later = after.engine.take(backing)
    assert isinstance(later, Later)
    with pytest.raises(Busy):
        later.work()
    for held in (disk, same):
        release = held.engine.drop(held)
        assert release is not None
        release.work()


def test_there_is_no_path_for_a_lock_that_is_lost(adopted: Adopted) -> None:
    disk = adopted.resource()
    disk.hold = adopted.engine.lost(disk)
    assert adopted.engine.path_doubt(disk) is None


@pytest.mark.parametrize("hold", [None, Hold()])
def test_a_hold_of_another_engine_is_refused(adopted: Adopted, hold: Hold | None) -> None:
    disk = adopted.resource()
    disk.hold = hold
    for call in (adopted.engine.drop, adopted.engine.describe, lambda disk: adopted.engine.check([disk])):
        with pytest.raises(TypeError, match="is no hold of this engine"):
            call(disk)


def test_a_descriptor_that_leads_to_another_file_now_is_not_adopted(adopted: Adopted, tmp_path: Path) -> None:
    """The number may have been used again. The identity of the locked file shows it."""
    (tmp_path / "other").touch()
    other = os.open(tmp_path / "other", os.O_RDWR)
    status = adopted.path.stat()
    facts = {"fd": other, "slow_mount": None, "identity": [status.st_dev, status.st_ino], "parked": []}
    with pytest.raises(OSError, match="Bad file descriptor"):
        adopted.engine.adopt(adopted.resource(), facts)
    assert stat.S_ISREG(os.fstat(other).st_mode)
    os.close(other)


def test_an_adopted_descriptor_is_closed_by_the_next_exec(adopted: Adopted) -> None:
    fd = os.open(adopted.path, os.O_RDWR)
    parked = os.open(adopted.path, os.O_RDWR)
    for inherited in (fd, parked):
        os.set_inheritable(inherited, True)
    status = adopted.path.stat()
    facts = {"fd": fd, "slow_mount": None, "identity": [status.st_dev, status.st_ino], "parked": [parked]}
    disk = adopted.resource()
    disk.hold = adopted.engine.adopt(disk, facts)
    assert not os.get_inheritable(fd)
    assert not os.get_inheritable(parked)
    assert adopted.engine.describe(disk) == facts
    adopted.drop(disk)
    assert adopted.inodes.descriptors() == []


def test_two_names_of_one_file_keep_one_lock(adopted: Adopted) -> None:
    """virtlockd grants both. Closing either of the two descriptors would end the lock (fcntl(2))."""
    first = adopted.resource()
    record_locks.lock_exclusive(adopted.adopt(first).fd)
    alias = adopted.path.with_name("alias")
    os.link(adopted.path, alias)
    second = Resource("", str(alias), str(alias), adopted.engine, 0.0, False, False)
    with pytest.raises(Busy) as caught:
        adopted.engine.adopt(second, {"fd": os.open(alias, os.O_RDWR)})
    assert caught.value.holder is first
    assert locks_on(adopted.path) == OWN_LOCK
    adopted.drop(first)
    assert adopted.inodes.descriptors() == []
