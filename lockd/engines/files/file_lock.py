"""The lock of one file: how it is taken, checked and given up.

These functions are the system calls behind a resource. They touch nothing else that another thread may touch, so they
may run in a worker thread while the lock table keeps the resource reserved. Only ``Inodes`` opens and closes the files
(Invariant 1).
"""

import errno
import math
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from lockd.engines.files.claims import BlockDevice, Claim, Claimed, Related
from lockd.engines.files.inodes import Inodes
from lockd.linux.descriptors import target_of
from lockd.linux.file_identity import Identity, identity_of
from lockd.linux.file_servers import is_removed, look_up_anew
from lockd.linux.leases import break_seconds
from lockd.linux.record_locks import lock_exclusive, lock_holder, lock_shared
from lockd.locks.errors import Busy, LockError, Outsider, RelatedHolder, SystemCallFailed, TryAgain
from lockd.locks.resource import Resource

T = TypeVar("T")

_OPEN: Final = os.O_RDWR
_OPEN_OR_CREATE: Final = os.O_RDWR | os.O_CREAT

_TRIES: Final = 20
"""How often work is done at most that meets files which other hosts remove meanwhile. Each time, somebody else has had
the lock. Of two daemons that took one lease as fast as they could, one met this in a quarter of its attempts."""

_ENDING_SECONDS: Final = 1.0
"""For how many seconds to wait for a claim that is ending. Closing its file may hang, and then it is in the way."""

_REMOVED: Final = frozenset({errno.ENOENT, errno.ESTALE})
"""Errors that say that somebody else has removed a file. For an open file, or one that this host remembers, it is
ESTALE (nfs(5))."""

_STALE: Final = OSError(errno.ESTALE, os.strerror(errno.ESTALE))

_stat: Final = os.stat
_lstat: Final = os.lstat
_unlink: Final = os.unlink


def take(inodes: Inodes, resource: Resource) -> Claim:
    """Lock a resource's file, on the reactor's thread and on a file system that does not block.

    :param inodes: the registry that opens the file.
    :param resource: the resource.
    :returns: the claim on the locked file.
    :raises Busy: another process, or another name of the same file, holds it.
    :raises SystemCallFailed: the file cannot be opened or locked. With ELOOP the path may only be a symbolic link:
        ``take_pinned`` can lock those.
    :raises TryAgain: see ``claim_refused`` and ``opening_failed``.
    :raises BlockDevice: the file is a block device.
    """
    while True:
        claim = _take(inodes, resource, None, pinned=False)
        if claim is not None:
            return claim


def take_pinned(inodes: Inodes, resource: Resource, device: Identity | None = None) -> Claim:
    """Lock a resource's file, whatever file system its path leads to; for a worker thread.

    :param inodes: the registry that opens the file.
    :param resource: the resource.
    :param device: the block device in whose queue the thread is, or None.
    :returns: the claim on the locked file.
    :raises Busy: another process, or another name of the same file, holds it.
    :raises SystemCallFailed: the file cannot be opened or locked.
    :raises TryAgain: see ``claim_refused`` and ``opening_failed``.
    :raises BlockDevice: the file is another block device.
    """
    return while_stale(partial(_take_pinned, inodes, resource, device))


def _take_pinned(inodes: Inodes, resource: Resource, device: Identity | None) -> Claim:
    claim = _take(inodes, resource, device, pinned=True)
    if claim is None:
        raise SystemCallFailed(f"Unable to open/create resource {resource.path}", _STALE)
    return claim


def while_stale(work: Callable[[], T]) -> T:
    """Do work again as long as it fails because another host has removed the file meanwhile (ESTALE).

    open(2) tries again by itself, and what is pinned cannot (``Inodes.open_pinned``). There is a limit, as a server
    may give this answer for ever.

    :param work: looks for the file by its path, and opens, locks or removes it.
    :returns: what it returns.
    :raises SystemCallFailed: it has failed ``_TRIES`` times, or for another reason.
    """
    for _ in range(_TRIES - 1):
        try:
            return work()
        except SystemCallFailed as error:
            if error.errno != errno.ESTALE:
                raise
    return work()


def _take(inodes: Inodes, resource: Resource, device: Identity | None, *, pinned: bool) -> Claim | None:
    """Lock a resource's file. Return None if it was removed meanwhile."""
    autocreate = resource.autocreate
    path = resource.path
    flags = _OPEN_OR_CREATE if autocreate else _OPEN
    try:
        if pinned:
            look_up_anew(path)
            claim = inodes.open_pinned(path, flags, resource, device=device)
        else:
            if autocreate:
                created = inodes.create(path, resource, lock)
                if created is not None:
                    return created
            claim = inodes.open(path, flags, resource)
    except Claimed as claimed:
        raise claim_refused(resource.name, claimed) from None
    except OSError as error:
        raise opening_failed(SystemCallFailed(_what_failed(resource, error), error)) from None
    try:
        lock(claim.fd, resource)
        if not autocreate or _still_named(claim, path, in_thread=pinned):
            return claim
    except BaseException:
        _give_up(inodes, resource, claim)
        raise
    # Whoever held the file before has just removed it: a lock on it protects nothing.
    _give_up(inodes, resource, claim)
    return None


def _what_failed(resource: Resource, error: OSError) -> str:
    """Return what could not be done with a file, in virtlockd's words."""
    if not resource.autocreate:
        return f"Unable to open resource {resource.path}"
    # An error of open(2) has the path, and one of fstat(2) has not: it is asked for a descriptor.
    if error.filename is None:
        return f"Unable to check status of pid file '{resource.path}'"
    return f"Unable to open/create resource {resource.path}"


def claim_refused(name: str, refused: Claimed) -> LockError:
    """Return the error of a call that needs an inode that is claimed.

    A claim that is held for nothing is that of a call that creates or deletes the file, and soon ends. So whoever asks
    for the file waits for its turn: nobody holds it. A claim that is ending may even be that of another file, which was
    removed and whose inode number the file has got.

    :param name: the resource's name.
    :param refused: the refusal of the registry.
    :returns: ``Busy``, or ``TryAgain``.
    """
    holder = refused.claim.holder
    if holder is None:
        return TryAgain(Busy(name, None), math.inf)
    if isinstance(refused, Related):
        holder = RelatedHolder(holder, path_of(refused.claim), refused.relation)
    busy = Busy(name, holder)
    return TryAgain(busy, _ENDING_SECONDS) if refused.claim.is_ending else busy


def path_of(claim: Claim) -> str:
    """Return the path by which a claimed file is known, for a message.

    :param claim: the claim. It may end meanwhile.
    :returns: the path that the claim was made for, or the one that the descriptor has now.
    """
    holder = claim.holder
    if isinstance(holder, Resource):
        return holder.path
    try:
        return target_of(claim.fd)
    except OSError:
        return "another file"  # it was closed meanwhile


def opening_failed(failed: SystemCallFailed) -> LockError:
    """Return the error of a call that could not open a file.

    Files are opened without waiting. With EWOULDBLOCK somebody has a lease on the file, and has now been asked to give
    it up (fcntl(2), F_SETLEASE).

    :param failed: why the file could not be opened.
    :returns: the same error, or ``TryAgain``.
    """
    return TryAgain(failed, break_seconds()) if failed.errno == errno.EWOULDBLOCK else failed


def take_anew(inodes: Inodes, resource: Resource, claim: Claim) -> Claim:
    """Lock the file that has come in place of a lease file, or make it, and then give up the old one; for a worker thread.

    A new file on another file system is no lease: the directory is not mounted any more, or hidden by another mount.
    Other hosts may still see the old file, and its lock.

    :param inodes: the registry that opens the file.
    :param resource: the resource.
    :param claim: the claim on the old file.
    :returns: the claim on the new file.
    :raises Busy: somebody else has locked the new file.
    :raises SystemCallFailed: the file cannot be opened or locked, or its directory is on another file system.
    :raises TryAgain: see ``claim_refused`` and ``opening_failed``.
    """
    action = f"Unable to open/create resource {resource.path}"
    try:
        device = _stat(os.path.dirname(resource.path)).st_dev
    except OSError as error:
        raise SystemCallFailed(action, error) from None
    elsewhere = OSError(errno.EXDEV, "it is on another file system now")
    if device != claim.identity[0]:
        raise SystemCallFailed(action, elsewhere)
    try:
        new = take_pinned(inodes, resource)
    except BlockDevice:
        raise SystemCallFailed(action, OSError(errno.ENOTBLK, "it is a block device now")) from None
    if new.identity[0] != claim.identity[0]:
        # The path is a symbolic link now.
        with suppress(OSError):
            inodes.unlock_and_close(new)
        raise SystemCallFailed(action, elsewhere)
    # No other lock ends with this one: the two claims are on two inodes (Invariant 1).
    _give_up(inodes, resource, claim)
    return new


def take_back(inodes: Inodes, resource: Resource, claim: Claim) -> Claim:
    """Lock a file again whose lock was lost although it is still open; for a worker thread.

    Whoever had the lock meanwhile may have removed the lease file. Then ``take_anew`` is done.

    :param inodes: the registry that opens the file.
    :param resource: the resource.
    :param claim: the claim on the file.
    :returns: the claim on the locked file.
    :raises Busy: somebody else has locked the file.
    :raises SystemCallFailed: the file cannot be locked.
    :raises TryAgain: see ``take_anew``.
    """
    try:
        lock(claim.fd, resource)
        if not resource.autocreate or _still_named(claim, resource.path, in_thread=True):
            return claim
    except SystemCallFailed as error:
        if error.errno != errno.ESTALE or not resource.autocreate:
            raise
    return take_anew(inodes, resource, claim)


def path_doubt(claim: Claim, path: str, in_thread: bool) -> str | None:
    """Return why a path no longer names a claimed file.

    :param claim: the claim on the file.
    :param path: the path.
    :param in_thread: see ``is_named``.
    :returns: None if it does name it.
    """
    try:
        status = _look_up(path) if in_thread else _lstat(path)
        if identity_of(status) != claim.identity:
            return "the path names another file than the locked one"
        removed = in_thread and is_removed(claim.fd)
    except FileNotFoundError:
        removed = True
    except OSError as error:
        return f"the path cannot be followed: {error.strerror}"
    return "the path names no file any more" if removed else None


def lock(fd: int, resource: Resource) -> None:
    """Lock an open file, shared or not as the resource says.

    :param fd: a descriptor of the file.
    :param resource: the resource that the lock is for.
    :raises Busy: another process holds a conflicting lock.
    :raises SystemCallFailed: the file system cannot lock.
    """
    try:
        if resource.shared:
            lock_shared(fd)
        else:
            lock_exclusive(fd)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2) allows either
        raise Busy(resource.name, _outsider(fd, resource.path)) from None
    except OSError as error:
        raise SystemCallFailed(f"Unable to acquire lock on '{resource.path}'", error) from None


def _outsider(fd: int, path: str) -> Outsider | None:
    try:
        pid = lock_holder(fd)
    except OSError:
        return None
    return None if pid is None else Outsider(pid, path)


def _still_named(claim: Claim, path: str, in_thread: bool) -> bool:
    try:
        return is_named(claim, path, in_thread)
    except OSError as error:
        raise SystemCallFailed(f"Unable to check resource {path}", error) from None


def is_named(claim: Claim, path: str, in_thread: bool) -> bool:
    """Return whether a path names a claimed file.

    This host may remember the name of a file that another host has removed since, and whose name is that of a new file
    by now. So the server is asked, if there may be one, for the file as well as for the name: how long a host
    remembers either depends on the file system and on mount options.

    :param claim: the claim on the file.
    :param path: the path.
    :param in_thread: whether this may block, as a worker thread calls it. Then the last component is followed too, if
        it is a symbolic link, which may lead to a server that hangs.
    :returns: False also where there is no such file.
    :raises OSError: the path cannot be followed, for another reason than that there is no such file (stat(2)).
    """
    try:
        if not in_thread:
            return identity_of(_lstat(path)) == claim.identity
        return not is_removed(claim.fd) and identity_of(_look_up(path)) == claim.identity
    except FileNotFoundError:
        return False


def _look_up(path: str) -> os.stat_result:
    look_up_anew(path)
    return _stat(path)


def _give_up(inodes: Inodes, resource: Resource, claim: Claim) -> None:
    """Close what could not be locked. A network file system may report an error, and has closed it all the same."""
    with suppress(OSError):
        _close(inodes, resource, claim)


def _close(inodes: Inodes, resource: Resource, claim: Claim) -> None:
    if resource.queue is None:
        inodes.close(claim)
    else:
        inodes.unlock_and_close(claim)


def drop(inodes: Inodes, resource: Resource, claim: Claim) -> None:
    """End the lock of a resource. A file that was made for it is removed first, while nobody else can have it.

    :param inodes: the registry that closes the file.
    :param resource: the resource.
    :param claim: the claim on its file.
    :raises OSError: the file could not be removed or closed cleanly. The lock has ended all the same.
    """
    try:
        if resource.autocreate:
            _remove(resource, claim)
    finally:
        _close(inodes, resource, claim)


def _remove(resource: Resource, claim: Claim) -> None:
    try:
        if resource.shared:
            try:
                lock_exclusive(claim.fd)
            except (BlockingIOError, PermissionError):
                return  # another host still shares it
        # A file that somebody put in its place is not ours to remove: they may hold a lock on it.
        # A link is followed in worker threads only.
        if is_named(claim, resource.path, in_thread=resource.queue is not None):
            _unlink(resource.path)
    except OSError as error:
        if error.errno not in _REMOVED:
            raise
