"""The lock table: which resources are held, by whom, in which lockspace.

A resource is in the table if and only if its lock is held (Invariant 1), but for the time that an engine takes to get
or to end the lock: it is reserved then, and busy for everybody else.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Final

from lockd.locks.engine import Engine, Hold
from lockd.locks.errors import (
    Busy,
    DirectLockspaceExists,
    LockspaceExists,
    NotHeld,
    NotOwner,
    TooManyHoldings,
    UnknownLockspace,
)
from lockd.locks.resource import DIRECT, Resource, State

# Members of an enumeration take several times as long to look up.
_HELD: Final = State.HELD
_RELEASING: Final = State.RELEASING

_NO_ENGINES: Final[Mapping[str, Engine]] = {}

HOLDINGS_MAX: Final = 65536
"""How many holdings of one resource there may be. No host has as many guests. Without a bound, a client that acquires
a shared resource again and again would fill the memory, and whoever looks at all of its holdings would take long."""


class LockTable:
    """All lockspaces of a daemon and what is held in them. It belongs to one thread.

    :param engine: what keeps the locks of the direct lockspace, and of each lockspace that no other engine is for.
    :param others: the engines of further lockspaces, by the lockspaces' paths.
    """

    def __init__(self, engine: Engine, others: Mapping[str, Engine] = _NO_ENGINES) -> None:
        self._engine = engine
        self._other_engines = others
        self._lockspaces: dict[str, dict[str, Resource]] = {DIRECT: {}}
        # Most owners hold a disk or a few: a list takes a third of the memory of a set, and is as fast.
        self._holdings: dict[int, list[Resource]] = {}

    def __iter__(self) -> Iterator[Resource]:
        """Iterate over all resources, lockspace by lockspace."""
        for resources in self._lockspaces.values():
            yield from resources.values()

    def __len__(self) -> int:
        return sum(map(len, self._lockspaces.values()))

    @property
    def lockspaces(self) -> list[str]:
        """The paths of all known lockspaces, without the direct one."""
        return [path for path in self._lockspaces if path != DIRECT]

    def engine_of(self, lockspace: str) -> Engine:
        """Return the engine that keeps the locks of a lockspace, known or not.

        :param lockspace: its path.
        :returns: the engine.
        """
        if self._other_engines:
            return self._other_engines.get(lockspace, self._engine)
        return self._engine

    def find(self, lockspace: str, name: str) -> Resource | None:
        """Find a resource.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :returns: the resource, or None if nobody holds it or waits for it.
        :raises UnknownLockspace: there is no such lockspace.
        """
        return self._resources(lockspace).get(name)

    def holdings(self, key: int) -> list[Resource]:
        """Return the resources that an owner has a holding of.

        :param key: the key of the owner: its pid, or a negative number if that is not known.
        :returns: the resources; also those that are being acquired or released.
        """
        return self._holdings.get(key, [])[:]

    # Lockspaces

    def check_new_lockspace(self, path: str) -> None:
        """Refuse a lockspace that is known.

        :param path: its path.
        :raises DirectLockspaceExists: it is the direct one.
        :raises LockspaceExists: it is another one.
        """
        if path == DIRECT:
            raise DirectLockspaceExists
        if path in self._lockspaces:
            raise LockspaceExists(path)

    def add_lockspace(self, path: str) -> None:
        """Register a lockspace; no effect if it is known.

        :param path: its path. Its engine has made it.
        """
        self._lockspaces.setdefault(path, {})

    # Acquire

    def reserve(
        self, lockspace: str, name: str, key: int, since: float, shared: bool, autocreate: bool
    ) -> Resource | None:
        """Begin to acquire a resource: nobody else can have it from now on.

        Its engine then takes the lock, and ``grant`` or ``forget`` ends the reservation.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :param key: the key of the owner: its pid, or a negative number if that is not known.
        :param since: when it was asked for, in seconds since the epoch.
        :param shared: whether others may hold it at the same time, if they share it too.
        :param autocreate: whether its file is to be made for the lock, and removed with it.
        :returns: the reserved resource; None if the owner has joined a shared resource that was held already.
        :raises UnknownLockspace: there is no such lockspace.
        :raises InvalidName: no resource can have this name.
        :raises Busy: the resource is held.
        :raises TooManyHoldings: the resource is shared, and has ``HOLDINGS_MAX`` holdings.
        """
        resources = self._resources(lockspace)
        present = resources.get(name)
        if present is not None:
            if present.state is not _HELD or not (shared and present.shared):
                raise Busy(name, present)
            if len(present.holdings) >= HOLDINGS_MAX:
                raise TooManyHoldings(name, HOLDINGS_MAX)
            self._add_holding(present, key)
            return None
        engine = self.engine_of(lockspace)
        path = engine.path_of(lockspace, name)
        resource = Resource(lockspace, name, path, engine, since, shared, autocreate)
        resources[name] = resource
        resource.holdings.append(key)
        self._add_resource(key, resource)
        return resource

    def grant(self, resource: Resource, hold: Hold) -> None:
        """End a reservation whose lock was taken.

        :param resource: the reserved resource.
        :param hold: what its engine keeps for it.
        """
        resource.hold = hold
        resource.state = _HELD

    # Release

    def end_holding(self, lockspace: str, name: str, key: int) -> Resource | None:
        """End one holding of an owner.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :param key: the key of the owner: its pid, or a negative number if that is not known.
        :returns: the resource, if that was its last holding: the caller has its engine drop it, and then calls
            ``forget``. None if there are further holdings.
        :raises UnknownLockspace: there is no such lockspace.
        :raises NotHeld: nobody holds the resource.
        :raises NotOwner: other owners hold it.
        """
        resource = self._resources(lockspace).get(name)
        if resource is None or resource.state is not _HELD:
            raise NotHeld(name)
        holdings = resource.holdings
        if key not in holdings:
            raise NotOwner(key)
        if len(holdings) == 1:
            resource.state = _RELEASING
            return resource
        holdings.remove(key)
        if key not in holdings:
            self._end_owner(resource, key)
        return None

    def end_holdings(self, key: int) -> list[Resource]:
        """End all holdings of an owner, in all lockspaces.

        :param key: the key of the owner: its pid, or a negative number if that is not known.
        :returns: the resources that nobody holds now: the caller has their engines drop them, and then calls
            ``forget`` for each.
        """
        ended: list[Resource] = []
        kept: list[Resource] = []
        # One pass: to remove each resource from the list by itself would take time quadratic in their number.
        for resource in self._holdings.pop(key, []):
            if resource.state is _HELD:
                if not self._leave(resource, key):
                    continue
                ended.append(resource)
            kept.append(resource)
        if kept:
            self._holdings[key] = kept
        return ended

    def end_holdings_of(self, resource: Resource, key: int) -> bool:
        """End all holdings of an owner on one resource.

        :param resource: the resource.
        :param key: the key of the owner: its pid, or a negative number if that is not known.
        :returns: whether nobody holds the resource now: the caller has its engine drop it, and then calls ``forget``.
        :raises NotHeld: the resource is being acquired or released.
        :raises NotOwner: other owners hold it.
        """
        if resource.state is not _HELD:
            raise NotHeld(resource.name)
        if key not in resource.holdings:
            raise NotOwner(key)
        if self._leave(resource, key):
            return True
        self._end_owner(resource, key)
        return False

    def forget(self, resource: Resource) -> None:
        """Remove a resource whose lock was dropped, or could not be taken.

        :param resource: the resource.
        """
        # A hold refers to its resource. Left in place, each release would leave a cycle to the garbage collector.
        resource.hold = None
        # If there were several owners, all but one have left before.
        self._end_owner(resource, resource.holdings[0])
        del self._lockspaces[resource.lockspace][resource.name]

    def check_free(self, lockspace: str, name: str) -> str:
        """Return the path of a resource's file, which is to be created or deleted.

        :param lockspace: the path of the lockspace.
        :param name: the resource's name in it.
        :returns: the path.
        :raises UnknownLockspace: there is no such lockspace.
        :raises InvalidName: no resource can have this name.
        :raises Busy: the resource is held.
        """
        resource = self._resources(lockspace).get(name)
        if resource is not None:
            raise Busy(name, resource)
        return self.engine_of(lockspace).path_of(lockspace, name)

    # Adopting what another program held

    def adopt(self, resource: Resource, keys: Iterable[int], hold: Hold) -> None:
        """Enter a resource whose lock is held already.

        :param resource: the resource, which is not in the table yet.
        :param keys: the keys of its owners, each once for every holding.
        :param hold: what its engine keeps for it.
        """
        self.grant(resource, hold)
        self._lockspaces.setdefault(resource.lockspace, {})[resource.name] = resource
        self.add_owners(resource, keys)

    def add_owners(self, resource: Resource, keys: Iterable[int]) -> None:
        """Give a held resource further owners.

        :param resource: the resource.
        :param keys: their keys, each once for every holding.
        """
        for key in keys:
            self._add_holding(resource, key)

    def replace_owners(self, replacements: Mapping[int, Set[int]]) -> None:
        """Give the holdings of some owners to others.

        If the holdings of one owner go to several others, each of them gets one of an exclusive resource: none of
        them has acquired it twice.

        :param replacements: the keys of the others, by the key of the owner whose holdings each of them gets.
        """
        self._holdings = {}
        for resource in self:
            before, resource.holdings = resource.holdings, []
            for key in before:
                others = replacements.get(key, {key})
                if len(others) > 1 and not resource.shared:
                    others = others - set(resource.holdings)
                self.add_owners(resource, others)

    def _resources(self, lockspace: str) -> dict[str, Resource]:
        try:
            return self._lockspaces[lockspace]
        except KeyError:
            raise UnknownLockspace(lockspace) from None

    def _leave(self, resource: Resource, key: int) -> bool:
        """End an owner's holdings of a held resource in one pass; return whether that was its last owner."""
        others = [holder for holder in resource.holdings if holder != key]
        if others:
            resource.holdings = others
            return False
        # ``forget`` removes the last owner, once the lock is dropped.
        del resource.holdings[1:]
        resource.state = _RELEASING
        return True

    def _add_holding(self, resource: Resource, key: int) -> None:
        if key not in resource.holdings:
            self._add_resource(key, resource)
        resource.holdings.append(key)

    def _add_resource(self, key: int, resource: Resource) -> None:
        holdings = self._holdings.get(key)
        if holdings is None:
            self._holdings[key] = [resource]
        else:
            holdings.append(resource)

    def _end_owner(self, resource: Resource, key: int) -> None:
        holdings = self._holdings[key]
        holdings.remove(resource)
        if not holdings:
            del self._holdings[key]
