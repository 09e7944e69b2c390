"""The engine of files: record locks on disks, and on lease files in lockspace directories.

What is on a local file system is done on the spot. What may block is left to a worker thread, in a queue of its own for
each mount point (Invariant 3).
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from lockd.engines.files import file_lock, lockspaces
from lockd.engines.files.claims import NOT_OPEN, BlockDevice, Claim, Claimed
from lockd.engines.files.inodes import Inodes
from lockd.engines.files.slow_mounts import SlowMounts
from lockd.linux.block_devices import Extent, Extents
from lockd.linux.file_identity import Identity, device_queue, identity_of, is_block_device
from lockd.linux.file_servers import look_up_anew
from lockd.linux.proc_locks import descriptor_locks, posix_locks
from lockd.locks.engine import Engine, Hold, Later
from lockd.locks.errors import Busy, LockError, SystemCallFailed, TryAgain
from lockd.locks.resource import BEING_TAKEN, LOST, Resource

_NO_FILE: Final[Identity] = (0, 0)
"""The identity of no file: no file system has the device number 0."""


class FilesEngine(Engine):
    """Keeps locks on files.

    :param inodes: the registry of the process's locked files.
    :param mounts: which paths may block.
    """

    def __init__(self, inodes: Inodes, mounts: SlowMounts) -> None:
        self._inodes = inodes
        self._mounts = mounts

    def path_of(self, lockspace: str, name: str) -> str:
        """Return the path of a resource's file. See ``Engine.path_of``."""
        return lockspaces.path_of(lockspace, name)

    def take(self, resource: Resource) -> Hold | Later[Hold]:
        """Lock a resource's file. See ``Engine.take``."""
        slow_mount = self._mounts.slow_mount(resource.path)
        if slow_mount is None:
            try:
                return file_lock.take(self._inodes, resource)
            except BlockDevice as device:
                return self._take_device(resource, device.identity)
            except TryAgain:
                pass
            except SystemCallFailed as error:
                # Opening a symbolic link fails with ELOOP. It may lead anywhere, and a worker thread can open it.
                if error.errno != errno.ELOOP:
                    raise
            slow_mount = self._mounts.slow_mount(f"{resource.path}/") or _directory_of(resource.path)
        resource.queue = slow_mount
        return Later(slow_mount, partial(self._take_pinned, resource))

    def _take_pinned(self, resource: Resource) -> Hold | Later[Hold]:
        """Lock a resource's file, in a worker thread; if it is a block device, in another thread of its own queue."""
        try:
            return file_lock.take_pinned(self._inodes, resource)
        except BlockDevice as device:
            return self._take_device(resource, device.identity)

    def _take_device(self, resource: Resource, device: Identity) -> Later[Hold]:
        resource.queue = device_queue(device)
        return Later(resource.queue, partial(self._take_pinned_device, resource, device))

    def _take_pinned_device(self, resource: Resource, device: Identity) -> Hold | Later[Hold]:
        try:
            return file_lock.take_pinned(self._inodes, resource, device)
        except BlockDevice as other:
            return self._take_device(resource, other.identity)

    def drop(self, resource: Resource) -> Later[None] | None:
        """Unlock a resource's file, and remove it where it was made for the lock. See ``Engine.drop``."""
        claim = _claim_of(resource.hold)
        if not claim.is_open:
            return None  # the lock was lost
        queue = resource.queue
        if queue is None and resource.autocreate:
            # The lease file is removed by its path. A slow file system may have been mounted over its directory since.
            queue = self._mounts.slow_mount(resource.path)
        if queue is not None:
            return Later(queue, partial(file_lock.drop, self._inodes, resource, claim))
        file_lock.drop(self._inodes, resource, claim)
        return None

    def holds(self, resource: Resource) -> bool:
        """Return whether a resource's file is still claimed. See ``Engine.holds``.

        A claim ends when its last descriptor is closed, which ends the lock (``Inodes.close``).
        """
        return self._inodes.has(_claim_of(resource.hold))

    # Lockspaces and their files

    def make_lockspace(self, path: str) -> Later[None] | None:
        """Make the directory of a lockspace. See ``Engine.make_lockspace``."""
        return self._now_or_later(path, partial(lockspaces.make_lockspace_directory, path))

    def create(self, path: str) -> Later[None] | None:
        """Create a resource's file. See ``Engine.create``."""
        return self._now_or_later(path, partial(lockspaces.create_file, self._inodes, path))

    def delete(self, path: str, name: str) -> Later[None] | None:
        """Remove a resource's file. See ``Engine.delete``."""
        return self._now_or_later(
            path, partial(lockspaces.delete_file, self._inodes, path, name), follows=False
        )

    def _now_or_later(
        self, path: str, work: Callable[[], None], *, follows: bool = True
    ) -> Later[None] | None:
        # A path with a NUL byte is refused by the work itself.
        queue = None if "\0" in path else self._mounts.slow_mount(path)
        if queue is None and follows and os.path.islink(path):
            # It may lead anywhere, also to a server that hangs.
            queue = self._mounts.slow_mount(f"{path}/") or _directory_of(path)
        if queue is not None:
            return Later(queue, partial(file_lock.while_stale, partial(_look_up_and_work, path, work)))
        try:
            work()
        except TryAgain:
            return Later(_directory_of(path), work)
        return None

    def is_listed(self, resource: Resource) -> bool:
        """Return whether the file system of a resource's file lists its locks. See ``Engine.is_listed``."""
        hold = resource.hold
        device = hold.identity[0] if isinstance(hold, Claim) else None
        return self._mounts.lists_locks(resource.queue, device)

    # Live upgrade

    def describe(self, resource: Resource) -> dict[str, Any]:
        """Return the facts of a resource's locked file. See ``Engine.describe``."""
        claim = _claim_of(resource.hold)
        facts: dict[str, Any] = {
            "fd": claim.fd,
            "slow_mount": resource.queue,
            "identity": list(claim.identity),
            "parked": claim.parked or [],
        }
        extents = self._inodes.extents(claim)
        if extents is not None:
            facts["extents"] = [list(extent) for extent in extents]
        return facts

    def adopt(self, resource: Resource, facts: Mapping[str, Any]) -> Hold:
        """Go on with an inherited descriptor of a locked file. See ``Engine.adopt``.

        The facts of a lockd tell where the file is mounted and which inode it is, so that no system call is needed
        that may block. virtlockd tells neither.
        """
        fd: int = facts["fd"]
        identity: Identity | None = None
        if "identity" in facts:
            resource.queue = facts["slow_mount"]
            identity = tuple(facts["identity"])
        else:
            resource.queue = self._mounts.slow_mount(f"{resource.path}/")
            if resource.queue is None and os.path.islink(resource.path):
                resource.queue = _directory_of(resource.path)
        # The next exec closes it again, unless the program then says otherwise.
        os.set_inheritable(fd, False)
        if identity is not None and resource.queue is None and identity_of(os.fstat(fd)) != identity:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            claim = self._inodes.adopt(
                fd, resource, identity, extents=_extents(facts), may_look_at=self._mounts.is_local
            )
        except Claimed as claimed:
            raise Busy(resource.name, claimed.claim.holder) from None
        if is_block_device(claim.identity):
            # virtlockd does not tell, and a lockd before this one served block devices on the spot.
            resource.queue = device_queue(claim.identity)
        related = self._inodes.in_the_way(claim)
        if related is not None:
            # virtlockd grants both.
            resource.doubt = f"{file_lock.path_of(related.claim)}, {related.relation}, is locked too"
        for parked in facts.get("parked", ()):
            with suppress(OSError):
                os.set_inheritable(parked, False)
                self._inodes.park(parked, claim)
        return claim

    def lost(self, resource: Resource) -> Hold:
        """Return what stands for the hold of a lock that is gone. See ``Engine.lost``."""
        return Claim(resource, _NO_FILE, NOT_OPEN)

    def check(self, resources: Iterable[Resource]) -> list[tuple[Resource, Later[Hold]]]:
        """Compare adopted holds with the locks that the kernel lists. See ``Engine.check``."""
        listed: dict[Identity, bool] = {
            (lock.device, lock.inode): lock.exclusive for lock in posix_locks(os.getpid())
        }
        to_take: list[tuple[Resource, Later[Hold]]] = []
        for resource in resources:
            claim = _claim_of(resource.hold)
            # If the kernel lists no locks of a file system, nothing can be known of them here.
            if claim.is_open and self.is_listed(resource):
                later = self._check(resource, claim, listed)
                if later is not None:
                    to_take.append((resource, later))
        return to_take

    def _check(self, resource: Resource, claim: Claim, listed: dict[Identity, bool]) -> Later[Hold] | None:
        exclusive = listed.get(claim.identity)
        try:
            if exclusive is None:
                # The list has other numbers for a block device, and for a file on btrfs. The descriptor has the lock.
                exclusive = _locked_exclusively(claim.fd)
        except OSError as error:
            resource.doubt = f"the kernel says nothing of the lock: {error.strerror}"
            return None
        if exclusive is None or exclusive == resource.shared:
            if resource.queue is not None:
                resource.doubt = BEING_TAKEN
                return Later(resource.queue, partial(file_lock.take_back, self._inodes, resource, claim))
            try:
                file_lock.lock(claim.fd, resource)
                resource.doubt = LOST
            except LockError as refusal:
                resource.doubt = f"the lock was lost: {refusal}"
        return None

    def path_doubt(self, resource: Resource) -> str | Later[str | None] | None:
        """Return why a path no longer names the locked file. See ``Engine.path_doubt``."""
        claim = _claim_of(resource.hold)
        if not claim.is_open:
            return None  # there is no lock that it could name
        # A slow file system may have been mounted over the directory since.
        queue = resource.queue or self._mounts.slow_mount(resource.path)
        if queue is not None:
            return Later(queue, partial(file_lock.path_doubt, claim, resource.path, in_thread=True))
        return file_lock.path_doubt(claim, resource.path, in_thread=False)

    def take_anew(self, resource: Resource) -> Later[Hold]:
        """Lock the file that has come in place of a lease file, or make it. See ``Engine.take_anew``."""
        claim = _claim_of(resource.hold)
        return Later(
            resource.queue or _directory_of(resource.path),
            partial(file_lock.take_anew, self._inodes, resource, claim),
        )


def _directory_of(path: str) -> str:
    """Return the directory of a file: the queue of what is on a local file system and may block all the same.

    Whoever can replace a file there by a link to a server that hangs holds up this directory only.
    """
    return path[: path.rfind("/")] or "/"


def _extents(facts: Mapping[str, Any]) -> Extents | None:
    """Return where the data of a block device are, if the program before has told."""
    if "extents" not in facts:
        return None
    return frozenset(
        Extent(data if isinstance(data, str) else (data[0], data[1]), start, end, is_all)
        for data, start, end, is_all in facts["extents"]
    )


def _look_up_and_work(path: str, work: Callable[[], None]) -> None:
    """Do work that looks for a file by its path, on a file system whose names this host may remember."""
    # If this fails, the work meets the same error, and tells it.
    with suppress(OSError):
        look_up_anew(path)
    work()


def _locked_exclusively(fd: int) -> bool | None:
    """Return whether the lock on an open file is a write lock; None where this process has no lock on it."""
    for lock in descriptor_locks(os.getpid(), fd):
        return lock.exclusive
    return None


def _claim_of(hold: Hold | None) -> Claim:
    if not isinstance(hold, Claim):
        raise TypeError(f"{hold!r} is no hold of this engine")
    return hold
