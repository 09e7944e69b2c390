"""A resource: one name in a lockspace, and the kernel's lock behind it."""

import os
from collections import Counter
from contextlib import suppress
from enum import Enum
from itertools import count
from time import time
from typing import Final

from lockd.locks import posix
from lockd.locks.errors import Busy, LockError, Outsider, SystemCallFailed
from lockd.locks.inodes import Claim, Claimed, Identity, Inodes, identity_of

_OPEN: Final = os.O_RDWR
_OPEN_OR_CREATE: Final = os.O_RDWR | os.O_CREAT

LOST = "the lock was lost, and taken again"
"""The doubt of a resource that others may have used meanwhile."""

_next_number: Final = count(1).__next__
_clock: Final = time
_stat: Final = os.stat
_unlink: Final = os.unlink


class State(Enum):
    """Where a resource is between being asked for and being gone."""

    ACQUIRING = "acquiring"
    HELD = "held"
    RELEASING = "releasing"


# Members of an enumeration take several times as long to look up.
_ACQUIRING: Final = State.ACQUIRING


class Resource:
    """A lock that is held, or on its way.

    ``take``, ``take_pinned`` and ``drop`` are the system calls; they touch nothing else that another thread
    may touch, so they may run in a worker thread while the table keeps the resource reserved.

    :ivar number: its place in the order in which resources were asked for.
    :ivar lockspace: path of its lockspace; empty for the direct one.
    :ivar path: the file that is locked.
    :ivar autocreate: whether the file is made for the lock, and removed with it.
    :ivar holdings: the owner's pid, once for each holding; only a shared resource has several.
    :ivar doubt: what speaks against the lock being as the table says; None for nothing. Only a lock that was
        taken over from another process can be in doubt.
    :ivar slow_mount: where the file's file system is mounted, if it may block: its calls belong to a worker
        thread. See ``mounts``.
    :ivar since: when the lock was asked for, in seconds since the epoch.
    """

    __slots__ = (
        "autocreate",
        "claim",
        "doubt",
        "holdings",
        "lockspace",
        "name",
        "number",
        "path",
        "shared",
        "since",
        "slow_mount",
        "state",
    )

    def __init__(self, lockspace: str, name: str, path: str, shared: bool, autocreate: bool) -> None:
        self.number = _next_number()
        self.lockspace = lockspace
        self.name = name
        self.path = path
        self.shared = shared
        self.autocreate = autocreate
        self.holdings: list[int] = []
        self.since = _clock()
        self.slow_mount: str | None = None
        self.doubt: str | None = None
        self.state = _ACQUIRING
        self.claim: Claim | None = None

    @property
    def owners(self) -> dict[int, int]:
        """How many holdings each owner's pid has."""
        return Counter(self.holdings)

    def take(self, inodes: Inodes) -> None:
        """Lock the file; on the reactor's thread, on a file system that does not block.

        :raises Busy: another process, or another name of the same file, holds it.
        :raises SystemCallFailed: the file cannot be opened or locked. ELOOP may only mean that the path is a
            symbolic link, and EWOULDBLOCK that there is a lease on the file: those are for ``take_pinned``.
        """
        self._take(inodes, pinned=False)

    def take_pinned(self, inodes: Inodes) -> None:
        """Lock the file, whatever file system its path leads to; for a worker thread.

        :raises Busy: another process, or another name of the same file, holds it.
        :raises SystemCallFailed: the file cannot be opened or locked.
        """
        self._take(inodes, pinned=True)

    def _take(self, inodes: Inodes, *, pinned: bool) -> None:
        flags = _OPEN_OR_CREATE if self.autocreate else _OPEN
        while True:
            try:
                if self.autocreate and not pinned:
                    self.claim = inodes.create(self.path, self, self._lock)
                    if self.claim is not None:
                        return
                if pinned:
                    claim = inodes.open_pinned(self.path, flags, self)
                else:
                    claim = inodes.open(self.path, flags, self)
            except Claimed as claimed:
                raise Busy(self.name, claimed.claim.holder) from None
            except OSError as error:
                action = "open/create" if self.autocreate else "open"
                raise SystemCallFailed(f"Unable to {action} resource {self.path}", error) from None
            try:
                self._lock(claim.fd)
                if not self.autocreate or self._still_named(claim):
                    self.claim = claim
                    return
            except BaseException:
                _close(inodes, claim)
                raise
            # Whoever held the file before has just removed it: its lock protects nothing.
            _close(inodes, claim)

    def _still_named(self, claim: Claim) -> bool:
        try:
            return self._is_named(claim)
        except OSError as error:
            raise SystemCallFailed(f"Unable to check resource {self.path}", error) from None

    def _lock(self, fd: int) -> None:
        try:
            if self.shared:
                posix.lock_shared(fd)
            else:
                posix.lock_exclusive(fd)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2) leaves it open
            raise Busy(self.name, self._outsider(fd)) from None
        except OSError as error:
            raise SystemCallFailed(f"Unable to lock resource {self.path}", error) from None

    def _outsider(self, fd: int) -> Outsider | None:
        try:
            pid = posix.lock_holder(fd)
        except OSError:
            return None
        return None if pid is None else Outsider(pid, self.path)

    def _is_named(self, claim: Claim) -> bool:
        """Whether the path still names the locked file: device and inode.

        :raises OSError: as stat(2) says, but where the file is missing.
        """
        try:
            return identity_of(_stat(self.path)) == claim.identity
        except FileNotFoundError:
            return False

    def check_adopted(self, held: dict[Identity, str], *, listed: bool) -> None:
        """Hold a lock that was taken over against the kernel, and take it again where it is gone.

        It does not block: on a slow file system a lock that is gone stays so.

        :param held: what ``posix.held_locks`` tells.
        :param listed: whether the kernel lists the locks of this file system; see ``MountTable.lists_locks``.
        """
        claim = self.claim
        if claim is None:
            return
        mode = posix.SHARED if self.shared else posix.EXCLUSIVE
        if listed and (held.get(claim.identity) or posix.held_lock(claim.fd)) != mode:
            self.doubt = "the lock was lost" if self.slow_mount else self._take_again(claim.fd)

    def check_path(self) -> None:
        """See whether the path of a lock that was taken over still names the locked file, where that cannot block."""
        if self.claim is None or self.slow_mount is not None or self.doubt is not None:
            return
        try:
            if not self._is_named(self.claim):
                self.doubt = "the path names another file than the locked one"
        except OSError as error:
            self.doubt = f"the path cannot be followed: {error.strerror}"

    def _take_again(self, fd: int) -> str:
        try:
            self._lock(fd)
        except LockError as error:
            return f"the lock was lost: {error}"
        return LOST

    def drop(self, inodes: Inodes) -> None:
        """End the lock. A file that was made for it is removed first, while nobody else can have it.

        :raises OSError: the file could not be removed or closed cleanly; the lock has ended all the same.
        """
        claim = self.claim
        if claim is None:
            return
        try:
            if self.autocreate:
                self._unlink(claim)
        finally:
            self.claim = None
            inodes.close(claim)

    def _unlink(self, claim: Claim) -> None:
        if self.shared:
            try:
                posix.lock_exclusive(claim.fd)
            except (BlockingIOError, PermissionError):
                return  # another host shares it still
        # A file that somebody put in its place is not ours to remove: they may hold a lock on it.
        if self._is_named(claim):
            try:
                _unlink(self.path)
            except FileNotFoundError:
                return  # somebody else was faster


def _close(inodes: Inodes, claim: Claim) -> None:
    """Give up what could not be locked. A network file system may complain, and has closed it all the same."""
    with suppress(OSError):
        inodes.close(claim)
