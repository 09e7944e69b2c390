"""The inodes that this process may hold locks on, and every descriptor that it has open on them.

A process loses all its POSIX locks on an inode when it closes any descriptor of that inode (fcntl(2)). This registry
keeps Invariant 1 of docs/design.md: while an inode is claimed, no descriptor of it is opened and closed apart from the
claim, by whatever name: hard link, symbolic link, bind mount, or another device node of the same disk. All descriptors
of a claim are closed together when the claim ends.

Lockable files are opened here and nowhere else. The reactor and worker threads both make and end claims, so a mutex
protects the registry. The mutex is not held during system calls that may block.
"""

import errno
import os
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from threading import Lock
from typing import Any, Final, NoReturn

from lockd.engines.files.claims import ABANDONED, NOT_OPEN, BlockDevice, Claim, Claimed, Related
from lockd.engines.files.opening import (
    DANGLING,
    EXCLUSIVELY,
    KIND,
    NEW,
    PSEUDO,
    REGULAR,
    SAFELY,
    WITHOUT_WAITING,
    check_kind,
)
from lockd.engines.files.related_devices import RelatedDevices
from lockd.linux.block_devices import Extents, extents_of, no_file, whole
from lockd.linux.file_identity import Identity, identity_of, is_block_device
from lockd.linux.record_locks import unlock
from lockd.linux.replaceable import others_can_replace
from lockd.locks.resource import Resource

_open: Final = os.open
_close: Final = os.close
_fstat: Final = os.fstat

# Places in a stat_result. Looking its fields up by their names takes longer.
_MODE: Final = 0
_LINKS: Final = 3

_TRIES: Final = 20
"""How often a file is made, or found if somebody else was faster. It is not there only if others remove it each time,
or if this host goes on to remember that there is no such name."""

_KNOWN_MAX: Final = 16384


class Inodes:
    """All claims of this process.

    :ivar pseudo_devices: the device numbers of files that are not opened to be locked, as the kernel makes up what is in
        them (``lockd.linux.pseudo_files``). The daemon reads many of them, and no disk is there.
    """

    def __init__(self) -> None:
        self.pseudo_devices: frozenset[int] = frozenset()
        self._claims: dict[Identity, Claim] = {}
        self._mutex = Lock()
        self._parked = 0
        # By path, of the files that ``open`` has opened: whether the path can lead to a regular file only.
        self._regular: dict[str, bool] = {}
        self._related = RelatedDevices()
        self._devices = 0  # how many claims are in it, as that is asked for each file
        self._to_locate: set[Claim] = set()
        # Descriptors of new files whose identity the file system did not tell.
        self._unidentified: list[int] = []

    def open(self, path: str, flags: int, holder: Any) -> Claim:
        """Open a file and claim its inode; on the reactor's thread, on a file system that does not block.

        What is neither a regular file nor a block device must not be opened at all, so the file is pinned first, by
        ``open_pinned``. That takes three system calls more. A path that led to a regular file, and that nobody but
        root and the daemon's own user can have lead anywhere else, is opened at once the next time. That may change
        unnoticed if the directory gets another owner, or if root puts a block device in place of the file; then the
        kind is still looked at once the file is open.

        If it is opened at once, its inode is known only after that. If the inode is claimed already, the new
        descriptor must not be closed: it is parked with the claim (Invariant 1). While a descriptor is parked, files
        are pinned first, so not more than one descriptor is ever parked.

        :param path: the file.
        :param flags: flags of open(2).
        :param holder: what the claim is for.
        :returns: the new claim.
        :raises Claimed: the inode is claimed already.
        :raises BlockDevice: it is a block device.
        :raises OSError: open(2) failed; with ELOOP if the path is a symbolic link, which may lead anywhere, and with
            EWOULDBLOCK if somebody has a lease on the file, which may take a minute to break. Or it is neither a
            regular file nor a block device.
        """
        flags |= WITHOUT_WAITING
        if self._parked or not self._regular.get(path, False):
            claim = self.open_pinned(path, flags, holder)
            if path not in self._regular:
                self._learn(path, claim)
            return claim
        fd = _open(path, flags, 0o600)
        try:
            status = _fstat(fd)
        except OSError:
            # Closing it might end a lock of this process (Invariant 1).
            self._unidentified.append(fd)
            raise
        claim = self._claim_open(Claim(holder, identity_of(status), fd))
        if status[_MODE] & KIND != REGULAR:
            del self._regular[path]
            self._refuse_opened(claim, status, path)
        if self._devices:
            self._refuse_related(claim)
        return claim

    def _learn(self, path: str, claim: Claim) -> None:
        if len(self._regular) >= _KNOWN_MAX:
            self._regular.clear()
        try:
            status = _fstat(claim.fd)
        except OSError:
            return  # the file is claimed all the same, and pinned again the next time
        self._regular[path] = status[_MODE] & KIND == REGULAR and not others_can_replace(path)

    def _refuse_opened(self, claim: Claim, status: os.stat_result, path: str) -> NoReturn:
        """Close what should not have been opened, and say what it is: no regular file.

        Nobody else had a claim on it, so closing it ends no lock (Invariant 1). It writes the dirty pages of a block
        device out only if who wrote them has closed the device just now, while it was open here.
        """
        with suppress(OSError):
            self.close(claim)
        check_kind(status, path)
        raise BlockDevice(claim.identity)

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
                fd = _open(path, NEW, 0o600)
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

    def open_pinned(
        self, path: str, flags: int, holder: Any, *, lockable: bool = True, device: Identity | None = None
    ) -> Claim:
        """Open a file and claim its inode, without ever opening an inode that is claimed already.

        The file is pinned first: opened with O_PATH, as closing such a descriptor ends no lock, and opens no device
        (open(2)). Then its inode is claimed, and what is pinned is opened through /proc/self/fd. Worker threads open
        files this way: they run beside the reactor, and parking a descriptor for each race with it would have no
        bound.

        :param path: the file. Symbolic links are followed, unless the flags have O_NOFOLLOW.
        :param flags: flags of open(2). With O_CREAT a missing file is made, but not behind a symbolic link.
        :param holder: what the claim is for.
        :param lockable: whether to open a regular file or a block device only.
        :param device: the one block device that may be opened, as this call is in its queue; None if none may.
        :returns: the new claim.
        :raises Claimed: the inode is claimed already, or that of a block device or a file with the same data.
        :raises BlockDevice: it is another block device.
        :raises OSError: open(2) failed, or it is neither a regular file nor a block device; with ESTALE if what is to
            be made is there and cannot be found, again and again.
        """
        flags |= SAFELY
        for _ in range(_TRIES):
            try:
                pin = _open(path, os.O_PATH | os.O_CLOEXEC | flags & os.O_NOFOLLOW)
            except FileNotFoundError:
                if not flags & os.O_CREAT:
                    raise
            else:
                return self._open_pin(pin, path, flags, holder, lockable, device)
            made = self._make(path, flags, holder)
            if made is not None:
                return made
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    def _open_pin(
        self, pin: int, path: str, flags: int, holder: Any, lockable: bool, device: Identity | None
    ) -> Claim:
        """Open what is pinned, and close the pin."""
        try:
            status = _fstat(pin)
            identity = identity_of(status)
            extents: Extents | None = None
            if lockable:
                check_kind(status, path)
                if status.st_dev in self.pseudo_devices:
                    raise OSError(errno.ENOTBLK, PSEUDO, path)
            if is_block_device(identity):
                if lockable and identity != device:
                    raise BlockDevice(identity)
                extents = extents_of(identity)
            claim = self._claim(holder, identity, extents)
            if claim.fd == NOT_OPEN:
                try:
                    claim.fd = _open(f"/proc/self/fd/{pin}", flags & ~(os.O_CREAT | os.O_NOFOLLOW))
                except OSError:
                    self._forget(claim)
                    raise
            return claim
        finally:
            # It has nothing to write out. If closing it failed all the same, the claim would be nobody's.
            _close_local(pin)

    def _make(self, path: str, flags: int, holder: Any) -> Claim | None:
        """Make a file that was missing. Return the claim on it if it had to be opened for that.

        Neither call follows a symbolic link in place of the file. open(2) with O_CREAT alone would: it makes the file
        that the link names, in any directory.

        :raises OSError: it cannot be made.
        """
        try:
            # This makes the file without opening it, so another process may lock it at once.
            os.mknod(path, stat.S_IFREG | 0o600)
        except FileExistsError:
            if os.path.islink(path):
                raise FileNotFoundError(errno.ENOENT, DANGLING, path) from None
        except FileNotFoundError:
            raise
        except OSError:
            # Many file servers have no such call (FUSE_MKNOD), and all can create a file by opening it.
            return self._make_by_opening(path, flags, holder)
        return None

    def _make_by_opening(self, path: str, flags: int, holder: Any) -> Claim | None:
        try:
            fd = _open(path, flags & os.O_ACCMODE | EXCLUSIVELY, 0o600)
        except FileExistsError:
            return None
        try:
            identity = identity_of(_fstat(fd))
        except OSError:
            # Another thread may have found the file by another path, and locked it: closing the descriptor would end
            # that lock (Invariant 1). It is kept for ever, as a new file whose inode cannot be asked for is very rare.
            self._unidentified.append(fd)
            raise
        # If another thread has claimed it by another path, the descriptor is parked there. As a file can be made only
        # once, not more than one descriptor is parked with a claim for that.
        return self._claim_open(Claim(holder, identity, fd))

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

    def has(self, claim: Claim) -> bool:
        """Return whether a claim has not ended.

        :param claim: the claim.
        :returns: False if all its descriptors are closed.
        """
        return self._claims.get(claim.identity) is claim

    def adopt(
        self,
        fd: int,
        holder: Any,
        identity: Identity | None = None,
        *,
        extents: Extents | None = None,
        may_look_at: Callable[[str], bool] = no_file,
    ) -> Claim:
        """Claim the inode of a descriptor that is open already.

        Nothing that has the same data can be claimed from now on. What has been claimed before stays claimed.

        :param fd: the descriptor. The registry closes it when the claim ends.
        :param holder: what the claim is for.
        :param identity: what identifies the inode, or None to ask by fstat(2), which may block.
        :param extents: where the data of a block device are, or None to ask sysfs.
        :param may_look_at: returns whether the file of a loop device may be looked at, as that may block. Those that
            may not be are left to ``locate``.
        :returns: the new claim.
        :raises Claimed: the inode is claimed already; the descriptor is parked with the present claim.
        :raises OSError: the descriptor is not open.
        """
        claim = self._claim_open(Claim(holder, identity or identity_of(os.fstat(fd)), fd))
        if is_block_device(claim.identity):
            known = extents if extents is not None else _extents_of_adopted(claim.identity, may_look_at)
            with self._mutex:
                self._add_device(claim, known)
                if extents is None:
                    self._to_locate.add(claim)
        return claim

    def in_the_way(self, claim: Claim) -> Related | None:
        """Look for another claim on the same data, unless both are shared.

        :param claim: the claim.
        :returns: why the claim would be refused now; None where there is no other.
        """
        with self._mutex:
            return self._related.in_the_way(claim, self._related.extents(claim), self._claims)

    def to_locate(self) -> list[Claim]:
        """Return the claims on adopted block devices of which it is not known yet where all their data are.

        :returns: the claims, for ``locate``.
        """
        with self._mutex:
            return list(self._to_locate)

    def locate(self, claim: Claim) -> None:
        """Find out where all data of an adopted block device are. This may block where the file of a loop device may.

        :param claim: the claim on the device. It may have ended.
        :raises OSError: descriptors or memory have run out.
        """
        extents = extents_of(claim.identity)
        with self._mutex:
            if claim in self._to_locate:
                self._add_device(claim, extents)

    def extents(self, claim: Claim) -> Extents | None:
        """Return where the data of a claimed block device are.

        :param claim: the claim.
        :returns: all its extents; None if it is not on a block device, or if not all of them are known yet.
        """
        return None if claim in self._to_locate else self._related.extents(claim)

    def descriptors(self, *, but: Collection[int | None] = ()) -> list[int]:
        """Return every descriptor that is open on a claimed inode, or on one that could not be identified.

        :param but: leave out the claims with these descriptors.
        :returns: the descriptors, parked ones too.
        """
        with self._mutex:
            claims = [claim for claim in self._claims.values() if claim.fd not in but]
        known = [fd for claim in claims for fd in (claim.fd, *(claim.parked or ())) if fd >= 0]
        return known + self._unidentified

    def close_abandoned(self) -> None:
        """Close the abandoned descriptors that no new claim has taken over. This may block: call it in a worker thread."""
        with self._mutex:
            abandoned = [claim for claim in self._claims.values() if claim.holder is ABANDONED]
        for claim in abandoned:
            # Only now: closing the one before may hang, and this one can be taken over until its own turn has come.
            if self._withdraw(claim):
                with suppress(OSError):
                    self.unlock_and_close(claim)

    def _withdraw(self, claim: Claim) -> bool:
        """Let nobody take an abandoned descriptor over from now on. Return False if somebody has."""
        with self._mutex:
            is_abandoned = claim.holder is ABANDONED
            if is_abandoned:
                claim.holder = None
        return is_abandoned

    def unlock_and_close(self, claim: Claim) -> None:
        """Do as ``close``, on a file system that may have a server. This may block.

        Closing ends a lock on the server only if that is told of it: a FUSE server that does not know FLUSH keeps the
        lock for ever. On a local file system nobody has to be told, and this call would be one too many.

        :param claim: the claim.
        :raises OSError: close(2) reported an error for the locked descriptor. It is closed, and the claim has ended.
        """
        # Nothing else is to be done about a failure: then closing has to end the lock.
        with suppress(OSError):
            unlock(claim.fd)
        self.close(claim)

    def close(self, claim: Claim) -> None:
        """Close every descriptor of the inode, which ends the lock, and then end the claim.

        In this order, as nobody else may lock the inode before the last descriptor is closed (Invariant 1). Once a
        removed file is closed, a new file may get its inode number, before the claim has ended.

        :param claim: the claim.
        :raises OSError: close(2) reported an error for the locked descriptor. It is closed, and the claim has ended.
        """
        claim.is_ending = True
        try:
            if claim.fd != NOT_OPEN:
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

    def _claim(self, holder: Any, identity: Identity, extents: Extents | None = None) -> Claim:
        claim = Claim(ABANDONED, identity, NOT_OPEN)
        with self._mutex:
            claim = self._claims.setdefault(identity, claim)
            if claim.holder is not ABANDONED:
                raise Claimed(claim)
            claim.holder = holder
            # The device is entered first: the reactor claims a file without the mutex, and then looks whether there
            # are devices.
            if extents is not None:
                self._add_device(claim, extents)
            if self._devices:
                related = self._related.in_the_way(claim, extents, self._claims)
                if related is not None:
                    claim.holder = ABANDONED
                    if claim.fd == NOT_OPEN:
                        del self._claims[identity]
                        self._remove_device(claim)
                    raise related
        return claim

    def _refuse_related(self, claim: Claim) -> None:
        """End the claim on a file that was just opened, if a block device with the same data is claimed.

        Nobody else had a claim on the file, so closing it ends no lock (Invariant 1).
        """
        related = self.in_the_way(claim)
        if related is not None:
            self.close(claim)
            raise related

    def _add_device(self, claim: Claim, extents: Extents) -> None:
        """Enter a claim on a block device. The caller holds the mutex."""
        self._to_locate.discard(claim)
        self._related.add(claim, extents)
        self._devices = len(self._related)

    def _remove_device(self, claim: Claim) -> None:
        """Remove a claim if it is on a block device. The caller holds the mutex."""
        self._related.remove(claim)
        self._to_locate.discard(claim)
        self._devices = len(self._related)

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
            if self._devices:
                self._remove_device(claim)
        finally:
            self._mutex.release()

    def _close_parked(self, parked: list[int]) -> None:
        for fd in parked:
            self._parked -= 1
            _close_local(fd)


def _close_local(fd: int) -> None:
    """Close a pin, or a descriptor that was opened on the reactor's thread, so on a local file system."""
    with suppress(OSError):
        os.close(fd)


def _extents_of_adopted(device: Identity, may_look_at: Callable[[str], bool]) -> Extents:
    try:
        return extents_of(device, may_look_at)
    except OSError:
        return frozenset((whole(device),))  # ``locate`` asks for the rest
