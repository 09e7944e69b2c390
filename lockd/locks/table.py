"""The lock table: which resources are held, by whom, in which lockspace.

A resource is in the table if and only if the kernel's lock is held (Invariant 1), but for the time that a
worker thread takes to get or to end the lock: it is reserved then, and busy for all others.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from lockd.locks.errors import (
    Busy,
    DirectLockspaceExists,
    InvalidName,
    LockspaceExists,
    NotADirectory,
    NotHeld,
    NotOwner,
    SystemCallFailed,
    UnknownLockspace,
)
from lockd.locks.inodes import Claim, Claimed, Identity, Inodes
from lockd.locks.resource import Resource, State

# Members of an enumeration take several times as long to look up.
_HELD: Final = State.HELD
_RELEASING: Final = State.RELEASING

DIRECT: Final = ""
"""The path that stands for the direct lockspace, where a resource's name is the path of its file."""


class LockTable:
    """All lockspaces of a daemon and what is held in them. It belongs to one thread."""

    def __init__(self, inodes: Inodes | None = None) -> None:
        self.inodes = inodes or Inodes()
        self._lockspaces: dict[str, dict[str, Resource]] = {DIRECT: {}}
        # Most owners hold a disk or a few: a list is a third of the memory of a set, and as fast.
        self._holdings: dict[int, list[Resource]] = {}

    def __iter__(self) -> Iterator[Resource]:
        """Go through all resources, lockspace by lockspace."""
        for resources in self._lockspaces.values():
            yield from resources.values()

    def __len__(self) -> int:
        return sum(map(len, self._lockspaces.values()))

    @property
    def lockspaces(self) -> list[str]:
        """The paths of all lockspaces that were made; the direct one is not among them."""
        return [path for path in self._lockspaces if path != DIRECT]

    def find(self, lockspace: str, name: str) -> Resource | None:
        """Return the resource, or None where nobody holds it.

        :raises UnknownLockspace: there is no such lockspace.
        """
        return self._resources(lockspace).get(name)

    def holdings(self, pid: int) -> list[Resource]:
        """Return the resources that the owner ``pid`` has a holding of."""
        return self._holdings.get(pid, [])[:]

    # Lockspaces

    def check_new_lockspace(self, path: str) -> None:
        """Refuse a lockspace that is known.

        :raises DirectLockspaceExists: it is the direct one.
        :raises LockspaceExists: it is another one.
        """
        if path == DIRECT:
            raise DirectLockspaceExists
        if path in self._lockspaces:
            raise LockspaceExists(path)

    def add_lockspace(self, path: str) -> None:
        """Know a lockspace whose directory is there. One that is known stays as it is."""
        self._lockspaces.setdefault(path, {})

    # Acquire

    def reserve(
        self, lockspace: str, name: str, owner: int, shared: bool, autocreate: bool
    ) -> Resource | None:
        """Begin to acquire a resource: nobody else can have it from now on.

        The lock itself is then taken by the resource's ``take`` or ``take_pinned``, and ``grant`` or
        ``forget`` ends the reservation.

        :returns: the reserved resource; None where ``owner`` has joined a shared one that is held already.
        :raises UnknownLockspace: there is no such lockspace.
        :raises InvalidName: no resource can have this name.
        :raises Busy: the resource is held.
        """
        resources = self._resources(lockspace)
        present = resources.get(name)
        if present is not None:
            if present.state is not _HELD or not (shared and present.shared):
                raise Busy(name, present)
            self._add_holding(present, owner)
            return None
        path = path_of(lockspace, name)
        resource = Resource(lockspace, name, path, shared, autocreate)
        resources[name] = resource
        resource.holdings.append(owner)
        self._add_resource(owner, resource)
        return resource

    def grant(self, resource: Resource) -> None:
        """End a reservation whose lock was taken."""
        resource.state = _HELD

    # Release

    def end_holding(self, lockspace: str, name: str, owner: int) -> Resource | None:
        """Take one holding of ``owner`` away.

        :returns: the resource where it was the last one: it is to be dropped now, and then ``forget`` is due.
        :raises UnknownLockspace: there is no such lockspace.
        :raises NotHeld: nobody holds the resource.
        :raises NotOwner: others do.
        """
        resource = self._resources(lockspace).get(name)
        if resource is None or resource.state is not _HELD:
            raise NotHeld(name)
        holdings = resource.holdings
        if owner not in holdings:
            raise NotOwner(owner)
        if len(holdings) == 1:
            resource.state = _RELEASING
            return resource
        holdings.remove(owner)
        if owner not in holdings:
            self._end_owner(resource, owner)
        return None

    def end_holdings(self, owner: int) -> list[Resource]:
        """Take all holdings of ``owner`` away, in all lockspaces.

        :returns: the resources that nobody holds now: each is to be dropped, and then ``forget`` is due.
        """
        ended = [
            self._end_holdings(resource, owner)
            for resource in self.holdings(owner)
            if resource.state is _HELD
        ]
        return [resource for resource in ended if resource is not None]

    def forget(self, resource: Resource) -> None:
        """End a resource whose lock was dropped, or could not be taken."""
        # Of several owners, all but one have left before.
        self._end_owner(resource, resource.holdings[0])
        del self._lockspaces[resource.lockspace][resource.name]

    # Lease files

    def check_free(self, lockspace: str, name: str) -> str:
        """Return the path of a resource's file, which is to be created or deleted.

        :raises UnknownLockspace: there is no such lockspace.
        :raises InvalidName: no resource can have this name.
        :raises Busy: the resource is held.
        """
        resource = self._resources(lockspace).get(name)
        if resource is not None:
            raise Busy(name, resource)
        return path_of(lockspace, name)

    # Adopting what another process held

    def adopt(
        self, resource: Resource, owners: Iterable[int], fd: int, identity: Identity | None = None
    ) -> Claim:
        """Take over a resource that is held already, and whose descriptor was inherited.

        Where it is the file of another resource, as virtlockd allows, that one gets the owners too: the lock
        stays as long as either needs it.

        :param identity: what identifies its inode, where that is known: asking may block.
        :raises Busy: it is the file of another resource.
        :raises OSError: the descriptor is not open.
        """
        try:
            claim = self.inodes.adopt(fd, resource, identity)
        except Claimed as error:
            holder = error.claim.holder
            if isinstance(holder, Resource):
                for owner in owners:
                    self._add_holding(holder, owner)
            raise Busy(resource.name, holder) from None
        resource.claim = claim
        self.adopt_taken(resource, owners)
        return claim

    def adopt_taken(self, resource: Resource, owners: Iterable[int]) -> None:
        """Take over a resource whose lock was taken already."""
        resource.state = _HELD
        self._lockspaces.setdefault(resource.lockspace, {})[resource.name] = resource
        for owner in owners:
            self._add_holding(resource, owner)

    def _resources(self, lockspace: str) -> dict[str, Resource]:
        try:
            return self._lockspaces[lockspace]
        except KeyError:
            raise UnknownLockspace(lockspace) from None

    def _end_holdings(self, resource: Resource, owner: int) -> Resource | None:
        """End all holdings of ``owner``; return the resource where it was the last owner."""
        others = [holder for holder in resource.holdings if holder != owner]
        if not others:
            resource.state = _RELEASING
            return resource
        resource.holdings = others
        self._end_owner(resource, owner)
        return None

    def _add_holding(self, resource: Resource, owner: int) -> None:
        if owner not in resource.holdings:
            self._add_resource(owner, resource)
        resource.holdings.append(owner)

    def _add_resource(self, owner: int, resource: Resource) -> None:
        holdings = self._holdings.get(owner)
        if holdings is None:
            self._holdings[owner] = [resource]
        else:
            holdings.append(resource)

    def _end_owner(self, resource: Resource, owner: int) -> None:
        holdings = self._holdings[owner]
        holdings.remove(resource)
        if not holdings:
            del self._holdings[owner]


def path_of(lockspace: str, name: str) -> str:
    """Return the path of a resource's file.

    :raises InvalidName: no resource of this lockspace can have this name.
    """
    if "\0" in name:
        raise InvalidName(f"resource name {name!r} has a NUL byte in it")
    if lockspace == DIRECT:
        if not name.startswith("/"):
            raise InvalidName(f"resource '{name}' is not an absolute path")
        return name
    if "/" in name or name in {"", ".", ".."}:
        raise InvalidName(f"resource '{name}' is not the name of a file in lockspace {lockspace}")
    return f"{lockspace}/{name}"


def make_lockspace_directory(path: str) -> None:
    """Make the directory of a lockspace, and its parents, mode 0700, where they are missing.

    It may block; it touches nothing that another thread may touch.

    :raises InvalidName: ``path`` is not absolute, or no path at all.
    :raises NotADirectory: there is something else.
    :raises SystemCallFailed: it cannot be made.
    """
    if "\0" in path:
        raise InvalidName(f"lockspace path {path!r} has a NUL byte in it")
    if not path.startswith("/"):
        raise InvalidName(f"lockspace '{path}' is not an absolute path")
    try:
        if os.path.exists(path):
            if not os.path.isdir(path):
                raise NotADirectory(path)
        else:
            _make_directories(path)
    except OSError as error:
        raise SystemCallFailed(f"Unable to create lockspace {path}", error) from None


def _make_directories(path: str) -> None:
    """Make a directory and its parents, all with mode 0700, where they are missing.

    ``os.makedirs`` gives its mode to the last one alone, and calls itself for each: a long path ends it.
    """
    end = path.find("/", 1)
    while end > 0:
        with suppress(FileExistsError):
            os.mkdir(path[:end], 0o700)
        end = path.find("/", end + 1)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None


def create_file(inodes: Inodes, path: str) -> None:
    """Create a resource's file, mode 0600; one that exists stays as it is.

    It may block, but not for ever on a pipe; it touches nothing that another thread may touch. Invariant 1: the
    file is opened and closed only under a claim, so that no lock on it ends.

    :raises SystemCallFailed: it cannot be created.
    """
    # virtlockd waits for ever for a reader of a FIFO.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
    try:
        inodes.close(inodes.open_pinned(path, flags, None))
    except Claimed:
        return  # held under another name: it exists
    except OSError as error:
        raise SystemCallFailed(f"cannot create file '{path}'", error, creating_file=True) from None


def delete_file(inodes: Inodes, path: str, name: str) -> None:
    """Remove a resource's file; one that is missing is no error.

    It may block; it touches nothing that another thread may touch.

    :raises Busy: the file is held under another name.
    :raises SystemCallFailed: it cannot be removed.
    """
    try:
        inodes.unlink(path)
    except Claimed as claimed:
        raise Busy(name, claimed.claim.holder) from None
    except FileNotFoundError:
        return
    except OSError as error:
        raise SystemCallFailed(f"Unable to delete lockspace resource {path}", error) from None
