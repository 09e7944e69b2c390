"""The inodes that this process may hold locks on, and every descriptor that it has open on them.

A process loses all its POSIX locks on an inode when it closes any descriptor of that inode (fcntl(2)). This registry
keeps Invariant 1 of docs/design.md: while an inode is claimed, no descriptor of it is opened and closed apart from the
claim, by whatever name: hard link, symbolic link, bind mount, or another device node of the same disk. All descriptors
of a claim are closed together when the claim ends.

Lockable files are opened here and nowhere else. The reactor and worker threads both make and end claims, so a mutex
protects the registry. The mutex is not held during system calls that may block.
"""

import os
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from threading import Lock
from typing import Any, Final

from lockd.linux.file_identity import Identity, identity_of
from lockd.locks.engine import Hold
from lockd.locks.resource import Resource

_open: Final = os.open
_close: Final = os.close
_fstat: Final = os.fstat

_WITHOUT_WAITING: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | _WITHOUT_WAITING

# The place of a number in a stat_result. Looking it up by its name takes longer.
_LINKS: Final = 3

_NOT_OPEN: Final = -1

ABANDONED: Final = "a call that an upgrade cut off"
"""The holder of a descriptor that a worker thread had just opened when the program was replaced. The next claim on its
inode takes the descriptor over."""

ORPHANED: Final = "a daemon before this one, whose state is lost"
"""The holder of an inherited descriptor if no state tells whether there is a lock on it."""


class Claimed(Exception):
    """The inode is claimed already.

    :ivar claim: the present claim; its holder tells for what.
    """

    def __init__(self, claim: "Claim") -> None:
        super().__init__(claim)
        self.claim = claim


class Claim(Hold):
    """The right to open one inode, and the descriptors that are open on it.

    :ivar holder: what the claim was made for, for example a ``Resource`` or a log file.
    :ivar identity: what identifies the inode.
    :ivar fd: the descriptor to lock.
    :ivar parked: further descriptors of the inode, which are closed when the claim ends; None if there are none.
    """

    __slots__ = ("fd", "holder", "identity", "parked")

    def __init__(self, holder: Any, identity: Identity, fd: int) -> None:
        self.holder = holder
        self.identity = identity
        self.fd = fd
        self.parked: list[int] | None = None


class Inodes:
    """All claims of this process."""

    def __init__(self) -> None:
        self._claims: dict[Identity, Claim] = {}
        self._mutex = Lock()
        self._parked = 0

    def open(self, path: str, flags: int, holder: Any) -> Claim:
        """Open a file and claim its inode; on the reactor's thread, on a file system that does not block.

        The inode is known only after the file is open. If it is claimed already, the new descriptor must not be
        closed: it is parked with the claim (Invariant 1). While a descriptor is parked, files are opened by the
        slower ``open_pinned``, so not more than one descriptor is ever parked.

        :param path: the file.
        :param flags: flags of open(2).
        :param holder: what the claim is for.
        :returns: the new claim.
        :raises Claimed: the inode is claimed already.
        :raises OSError: open(2) failed; with ELOOP if the path is a symbolic link, which may lead anywhere, and with
            EWOULDBLOCK if somebody has a lease on the file, which may take a minute to break.
        """
        flags |= _WITHOUT_WAITING
        if self._parked:
            return self.open_pinned(path, flags, holder)
        fd = _open(path, flags, 0o600)
        return self._claim_open(Claim(holder, identity_of(_fstat(fd)), fd))

    def create(self, path: str, holder: Resource, lock: Callable[[int, Resource], None]) -> Claim | None:
        """Create a file, lock it and claim its inode; on the reactor's thread, on a file system that does not block.

        Between its creation and the lock, another daemon may have locked and removed the file. In this process
        nobody can have claimed it, as the mutex is held meanwhile. So one fstat(2) after the lock is enough: it tells
        which inode it is, and that it still has its one name. This saves the stat(2) of the path, a tenth of the
        instructions of an acquire and release. It does not notice that the file was renamed; that can happen at any
        later moment as well, and no lock daemon does it.

        :param path: the file.
        :param holder: the resource that the claim is for.
        :param lock: called with the descriptor and the holder. It locks the file, or raises.
        :returns: the new claim; None if the file exists already or was replaced meanwhile. ``open`` can open that one.
        :raises Claimed: the inode is claimed already.
        :raises OSError: open(2) failed.
        """
        if self._parked:
            return None
        self._mutex.acquire()
        try:
            try:
                fd = _open(path, _NEW, 0o600)
            except FileExistsError:
                return None
            # Nobody has claimed the new inode, so closing it here ends no other lock (Invariant 1).
            try:
                lock(fd, holder)
                status = _fstat(fd)
            except BaseException:
                _close_local(fd)
                raise
            if status[_LINKS] != 1:
                _close_local(fd)
                return None
            return self._enter(Claim(holder, identity_of(status), fd))
        finally:
            self._mutex.release()

    def open_pinned(self, path: str, flags: int, holder: Any) -> Claim:
        """Open a file and claim its inode, without ever opening an inode that is claimed already.

        The file is pinned first: opened with O_PATH, as closing such a descriptor ends no lock (open(2)). Then its
        inode is claimed, and what is pinned is opened through /proc/self/fd. Worker threads open files this way:
        they run beside the reactor, and parking a descriptor for each race with it would have no bound.

        :param path: the file. Symbolic links are followed, unless the flags have O_NOFOLLOW.
        :param flags: flags of open(2).
        :param holder: what the claim is for.
        :returns: the new claim.
        :raises Claimed: the inode is claimed already.
        :raises OSError: open(2) failed.
        """
        pin = _pin(path, flags)
        try:
            claim = self._claim(holder, identity_of(os.fstat(pin)))
            if claim.fd == _NOT_OPEN:
                try:
                    claim.fd = os.open(f"/proc/self/fd/{pin}", flags & ~(os.O_CREAT | os.O_NOFOLLOW))
                except OSError:
                    self._forget(claim)
                    raise
            return claim
        finally:
            os.close(pin)

    def unlink(self, path: str) -> None:
        """Remove a file, if its inode is not claimed. Nobody can claim it meanwhile.

        :param path: the file. A symbolic link is removed itself.
        :raises Claimed: the inode is claimed.
        :raises OSError: lstat(2) or unlink(2) failed.
        """
        claim = self._claim(None, identity_of(os.lstat(path)))
        try:
            os.unlink(path)
        finally:
            self.close(claim)

    def holder(self, identity: Identity) -> Any | None:
        """Return what an inode is claimed for.

        :param identity: what identifies the inode.
        :returns: the holder of its claim, or None.
        """
        claim = self._claims.get(identity)
        return None if claim is None else claim.holder

    def adopt(self, fd: int, holder: Any, identity: Identity | None = None) -> Claim:
        """Claim the inode of a descriptor that is open already.

        :param fd: the descriptor. The registry closes it when the claim ends.
        :param holder: what the claim is for.
        :param identity: what identifies the inode, or None to ask by fstat(2), which may block.
        :returns: the new claim.
        :raises Claimed: the inode is claimed already; the descriptor is parked with the present claim.
        :raises OSError: the descriptor is not open.
        """
        return self._claim_open(Claim(holder, identity or identity_of(os.fstat(fd)), fd))

    def descriptors(self, *, but: Collection[int | None] = ()) -> list[int]:
        """Return every descriptor that is open on a claimed inode.

        :param but: leave out the claims with these descriptors.
        :returns: the descriptors, parked ones too.
        """
        with self._mutex:
            claims = [claim for claim in self._claims.values() if claim.fd not in but]
        return [fd for claim in claims for fd in (claim.fd, *(claim.parked or ())) if fd >= 0]

    def close_abandoned(self) -> None:
        """Close the abandoned descriptors that no new claim has taken over. This may block: call it in a worker thread."""
        with self._mutex:
            abandoned = [claim for claim in self._claims.values() if claim.holder is ABANDONED]
            for claim in abandoned:
                claim.holder = None
        for claim in abandoned:
            with suppress(OSError):
                self.close(claim)

    def close(self, claim: Claim) -> None:
        """Close every descriptor of the inode, which ends the lock, and then end the claim.

        In this order, as nobody else may lock the inode before the last descriptor is closed (Invariant 1).

        :param claim: the claim.
        :raises OSError: close(2) reported an error for the locked descriptor. It is closed, and the claim has ended.
        """
        try:
            if claim.fd != _NOT_OPEN:
                _close(claim.fd)
        finally:
            self._forget(claim)

    def _claim_open(self, claim: Claim) -> Claim:
        # In most cases the inode is free, and no mutex is needed to claim it: dict.setdefault is atomic.
        if self._claims.setdefault(claim.identity, claim) is claim:
            return claim
        with self._mutex:
            return self._enter(claim)

    def _enter(self, claim: Claim) -> Claim:
        """Claim the inode of an open descriptor, or park the descriptor. The caller holds the mutex."""
        present = self._claims.setdefault(claim.identity, claim)
        if present is claim:
            return claim
        self._park(claim.fd, present)
        raise Claimed(present)

    def _claim(self, holder: Any, identity: Identity) -> Claim:
        claim = Claim(holder, identity, _NOT_OPEN)
        with self._mutex:
            present = self._claims.setdefault(identity, claim)
            if present is not claim and present.holder is ABANDONED:
                present.holder = holder
                return present
        if present is not claim:
            raise Claimed(present)
        return claim

    def park(self, fd: int, claim: Claim) -> None:
        """Keep a further descriptor of a claimed inode open until the claim ends (Invariant 1).

        :param fd: the descriptor.
        :param claim: the claim on its inode.
        """
        with self._mutex:
            self._park(fd, claim)

    def _park(self, fd: int, claim: Claim) -> None:
        if claim.parked is None:
            claim.parked = []
        claim.parked.append(fd)
        self._parked += 1

    def _forget(self, claim: Claim) -> None:
        # On the path of every release: a ``with`` statement would take as long as all the rest of this method.
        self._mutex.acquire()
        try:
            if claim.parked is not None:
                self._close_parked(claim.parked)
            del self._claims[claim.identity]
        finally:
            self._mutex.release()

    def _close_parked(self, parked: list[int]) -> None:
        for fd in parked:
            self._parked -= 1
            _close_local(fd)


def _close_local(fd: int) -> None:
    """Close a descriptor that was opened on the reactor's thread, so on a local file system."""
    with suppress(OSError):
        os.close(fd)


def _pin(path: str, flags: int) -> int:
    """Return a descriptor that pins the file of a path (O_PATH). Closing it ends no lock."""
    while True:
        try:
            return os.open(path, os.O_PATH | flags & os.O_NOFOLLOW)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        # mknod(2) makes the file without opening it, so another process may lock it at once. Unlike open(2), it does
        # not follow a link whose target is missing.
        target = os.path.realpath(path) if os.path.islink(path) else path
        with suppress(FileExistsError):
            os.mknod(target, stat.S_IFREG | 0o600)
