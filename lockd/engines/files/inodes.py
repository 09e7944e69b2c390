"""The inodes that this process may hold locks on, and every descriptor that it has open on them.

A process loses all its POSIX locks on an inode when it closes any descriptor of it (fcntl(2)). So the
registry keeps Invariant 1 of the design: of an inode that is claimed, no descriptor is ever opened and
closed beside the claim, whatever name it was opened by: hard link, symbolic link, bind mount, or another
device node of the same disk. All descriptors of a claim are closed together when it ends.

Two things can hold a lock of this process on one inode only by sharing a claim; there is no other way to
open a lockable file. Claims are made and ended by the reactor and by worker threads, so a mutex guards them;
it is never held during a system call that can block.
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
"""The holder of a descriptor that a worker thread had just opened when the process was replaced. Whoever asks for
its inode next goes on with it."""

ORPHANED: Final = "a daemon before this one, whose state is lost"
"""The holder of a descriptor that nobody knows the lock of."""


class Claimed(Exception):
    """The inode is claimed already. ``claim`` tells by whom."""

    def __init__(self, claim: "Claim") -> None:
        super().__init__(claim)
        self.claim = claim


class Claim(Hold):
    """The right to open one inode, and the descriptors open on it.

    :ivar holder: whatever the claim was made for.
    :ivar fd: the descriptor to lock.
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
        """Open ``path`` and claim its inode; for the reactor's thread, on file systems that do not block.

        The inode is known only once it is open. If it turns out to be claimed, the new descriptor must not
        be closed: it is parked with the claim. While one is parked, opening takes the longer way of
        ``open_pinned``, so that not more than one ever is.

        :raises Claimed: somebody has the inode.
        :raises OSError: as open(2) says; ELOOP if ``path`` is a symbolic link, which may lead anywhere, and
            EWOULDBLOCK if somebody has to give up a lease on the file first, which may take a minute.
        """
        flags |= _WITHOUT_WAITING
        if self._parked:
            return self.open_pinned(path, flags, holder)
        fd = _open(path, flags, 0o600)
        return self._claim_open(Claim(holder, identity_of(_fstat(fd)), fd))

    def create(self, path: str, holder: Resource, lock: Callable[[int, Resource], None]) -> Claim | None:
        """Make a file, lock it and claim its inode; for the reactor's thread, on file systems that do not block.

        Between being made and being locked it may have been locked, and removed, by another daemon. Nobody of this
        process can have it, as nobody claims anything meanwhile: so one fstat(2) after the lock tells both that it
        has its one name still and which inode it is. That saves the stat(2) of the path, a tenth of the instructions
        of an acquire and a release. (It does not see that the file was renamed; that may happen at any later moment
        too, and no daemon does it.)

        :param lock: called with the descriptor and ``holder``; locks the file, or raises.
        :returns: None where there is a file already, or has come to be another one: that is for ``open``.
        :raises Claimed: somebody has the inode.
        :raises OSError: as open(2) says.
        """
        if self._parked:
            return None
        self._mutex.acquire()
        try:
            try:
                fd = _open(path, _NEW, 0o600)
            except FileExistsError:
                return None
            # Until it is claimed, closing it ends nobody else's lock (Invariant 1).
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
        """Do the same without ever opening a claimed inode: pin it first, claim it, then open what is pinned.

        Closing a descriptor that was opened with O_PATH ends no lock. This is the way for worker threads,
        which an exec may end at any moment.

        :raises Claimed: somebody has the inode.
        :raises OSError: as open(2) says.
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
        """Remove a name of an inode that nobody has claimed; nobody can have it meanwhile.

        :raises Claimed: somebody has the inode.
        :raises OSError: as lstat(2) and unlink(2) say. Symbolic links are not followed.
        """
        claim = self._claim(None, identity_of(os.lstat(path)))
        try:
            os.unlink(path)
        finally:
            self.close(claim)

    def holder(self, identity: Identity) -> Any | None:
        """Return the holder of the claim on an inode, or None."""
        claim = self._claims.get(identity)
        return None if claim is None else claim.holder

    def adopt(self, fd: int, holder: Any, identity: Identity | None = None) -> Claim:
        """Claim the inode of a descriptor that was inherited open.

        :param identity: what identifies the inode, where that is known: asking may block.
        :raises Claimed: somebody has the inode; ``fd`` is parked with the claim.
        :raises OSError: ``fd`` is not open.
        """
        return self._claim_open(Claim(holder, identity or identity_of(os.fstat(fd)), fd))

    def descriptors(self, *, but: Collection[int | None] = ()) -> list[int]:
        """Return every descriptor that is open on a claimed inode.

        :param but: descriptors of claims that are left out.
        """
        with self._mutex:
            claims = [claim for claim in self._claims.values() if claim.fd not in but]
        return [fd for claim in claims for fd in (claim.fd, *(claim.parked or ())) if fd >= 0]

    def close_abandoned(self) -> None:
        """Close what nobody has gone on with. It may block, and is for a worker thread."""
        with self._mutex:
            abandoned = [claim for claim in self._claims.values() if claim.holder is ABANDONED]
            for claim in abandoned:
                claim.holder = None
        for claim in abandoned:
            with suppress(OSError):
                self.close(claim)

    def close(self, claim: Claim) -> None:
        """Close every descriptor of the inode, which ends the lock, and then the claim.

        In this order: until the last one is closed, nobody else may lock the inode.

        :raises OSError: as close(2) says of the descriptor that was locked; the claim has ended.
        """
        try:
            if claim.fd != _NOT_OPEN:
                _close(claim.fd)
        finally:
            self._forget(claim)

    def _claim_open(self, claim: Claim) -> Claim:
        # Mostly nobody has the inode, and that one step is no other thread's business: setdefault is atomic.
        if self._claims.setdefault(claim.identity, claim) is claim:
            return claim
        with self._mutex:
            return self._enter(claim)

    def _enter(self, claim: Claim) -> Claim:
        """Claim the inode of an open descriptor, which is parked where somebody has it. The caller has the mutex."""
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
        """Keep a further descriptor of a claimed inode, until the claim ends."""
        with self._mutex:
            self._park(fd, claim)

    def _park(self, fd: int, claim: Claim) -> None:
        if claim.parked is None:
            claim.parked = []
        claim.parked.append(fd)
        self._parked += 1

    def _forget(self, claim: Claim) -> None:
        # Every release comes here, and a ``with`` takes as long as all the rest of it.
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
    """Close a descriptor that the reactor's way of opening has opened: on a local file system."""
    with suppress(OSError):
        os.close(fd)


def _pin(path: str, flags: int) -> int:
    """Return a descriptor that holds on to what ``path`` names, and whose closing ends no lock."""
    while True:
        try:
            return os.open(path, os.O_PATH | flags & os.O_NOFOLLOW)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        # mknod makes the file without opening it: somebody else may lock it at once. Unlike open, it does not
        # make what a link leads to.
        target = os.path.realpath(path) if os.path.islink(path) else path
        with suppress(FileExistsError):
            os.mknod(target, stat.S_IFREG | 0o600)
