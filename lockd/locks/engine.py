"""The contract of an engine: what takes the locks that the lock table decides on, and keeps them.

An engine knows nothing of clients, owners or protocols. ``lockd.engines`` has the engines, and tests/engines/contract.py
is the test suite that each of them has to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from lockd.locks.resource import Resource

T = TypeVar("T")


class Hold:
    """What an engine keeps for a resource whose lock it holds. Each engine has a class of its own."""

    __slots__ = ()


class Later(Generic[T]):
    """Work that may block, so that the caller has to have it done in a worker thread.

    :ivar queue: what the work may wait for, for example a mount point. Work of one queue never delays the work of
        another.
    :ivar work: does the work, and returns or raises what the engine's method would have. If it raises ``TryAgain``,
        nothing is done, and it can be called again after a pause. If it returns another ``Later``, nothing is done
        either: it has found that it would wait for something else, and that work is to be done instead.
    """

    def __init__(self, queue: str, work: Callable[[], T | Later[T]]) -> None:
        self.queue = queue
        self.work = work


class Engine:
    """What takes and keeps the locks of lockspaces.

    A method that returns ``Later`` has done nothing yet, and what is documented for it happens in ``Later.work``.
    While that is under way, the table keeps the resource reserved: no other method is called for it. All methods
    belong to the table's thread.

    It is a base class and not a protocol, so that compiled code calls its methods directly.
    """

    def path_of(self, lockspace: str, name: str) -> str:
        """Return the path that stands for a resource, in messages and in the state document.

        :param lockspace: the path of the lockspace; empty for the direct lockspace.
        :param name: the resource's name in the lockspace.
        :returns: the path.
        :raises InvalidName: no resource of this lockspace can have this name.
        """
        raise NotImplementedError

    def take(self, resource: Resource) -> Hold | Later[Hold]:
        """Take the lock of a reserved resource.

        Sets ``resource.queue`` where this may block.

        :param resource: the resource; ``shared`` and ``autocreate`` tell how it is to be locked.
        :returns: the hold.
        :raises Busy: somebody else holds the lock, under this name or another one.
        :raises SystemCallFailed: the lock cannot be taken.
        """
        raise NotImplementedError

    def drop(self, resource: Resource) -> Later[None] | None:
        """Give up the lock of a resource. What was made for it (``autocreate``) is removed first.

        :param resource: the resource, with its hold.
        :returns: None where it is done.
        :raises OSError: it was not given up cleanly. The lock has ended all the same.
        """
        raise NotImplementedError

    def holds(self, resource: Resource) -> bool:
        """Return whether the engine still has the lock of a resource, after ``drop`` failed for no documented reason.

        :param resource: the resource, with its hold.
        :returns: True if ``drop`` has to be called again; False if the lock has ended.
        """
        raise NotImplementedError

    def make_lockspace(self, path: str) -> Later[None] | None:
        """Make a lockspace; no effect if it exists.

        :param path: the path of the lockspace.
        :returns: None where it is done.
        :raises InvalidName: no lockspace can have this path.
        :raises NotADirectory: the path belongs to something else.
        :raises SystemCallFailed: the lockspace cannot be made.
        """
        raise NotImplementedError

    def create(self, path: str) -> Later[None] | None:
        """Create what stands for a resource that nobody holds; no effect if it exists.

        :param path: what ``path_of`` returned for the resource.
        :returns: None where it is done.
        :raises SystemCallFailed: it cannot be created.
        """
        raise NotImplementedError

    def delete(self, path: str, name: str) -> Later[None] | None:
        """Delete what stands for a resource that nobody holds; no effect if it does not exist.

        :param path: what ``path_of`` returned for the resource.
        :param name: the resource's name, for the error.
        :returns: None where it is done.
        :raises Busy: it is held under another name.
        :raises SystemCallFailed: it cannot be deleted.
        """
        raise NotImplementedError

    def is_listed(self, resource: Resource) -> bool:
        """Return whether the kernel lists the lock of a resource in /proc/locks, as long as it is held.

        :param resource: the resource.
        :returns: False if the lock may be held although the kernel does not list it.
        """
        raise NotImplementedError

    # Live upgrade

    def describe(self, resource: Resource) -> dict[str, Any]:
        """Return what the next program has to know of a resource's hold.

        :param resource: the resource, with its hold.
        :returns: the facts that ``adopt`` takes, as a JSON object. ``fd`` is the descriptor that the lock was taken
            by.
        """
        raise NotImplementedError

    def adopt(self, resource: Resource, facts: Mapping[str, Any]) -> Hold:
        """Go on with a hold that the program before this one had, in the same process.

        Sets ``resource.queue`` where later calls for the resource may block, and ``resource.doubt`` if what has the same
        data is locked for another resource, as virtlockd permits.

        :param resource: the resource, without a hold.
        :param facts: what ``describe`` returned in the program before. From virtlockd it is ``fd`` alone.
        :returns: the hold.
        :raises Busy: the lock is held for another resource already, under another name. It stays.
        :raises OSError: there is nothing left to go on with; the lock is gone.
        """
        raise NotImplementedError

    def lost(self, resource: Resource) -> Hold:
        """Return what stands for the hold of a lock that is gone, until the lock is taken again.

        ``holds`` is False for it, there is nothing to drop, and the next program cannot adopt it.

        :param resource: the resource.
        :returns: the hold.
        """
        raise NotImplementedError

    def check(self, resources: Iterable[Resource]) -> list[tuple[Resource, Later[Hold]]]:
        """Compare adopted holds with the locks that there really are; this does not block.

        A lock that is gone is taken again if that cannot block. Sets ``resource.doubt`` if the lock was gone, or if
        the kernel should list it and cannot be asked. Nothing is known of a lock that is not listed (``is_listed``).

        :param resources: resources with holds of this engine.
        :returns: the resources whose locks are gone and are to be taken again by work that may block.
        """
        raise NotImplementedError

    def path_doubt(self, resource: Resource) -> str | Later[str | None] | None:
        """Return why the path of a held resource no longer names what is locked.

        :param resource: the resource, with its hold.
        :returns: None where it does.
        """
        raise NotImplementedError

    def take_anew(self, resource: Resource) -> Later[Hold]:
        """Lock what has come in place of what a resource was made for (``autocreate``), or make it anew.

        The old lock is given up once the new one is taken, so there is always one. If the new one cannot be taken, the
        old one stays.

        :param resource: the resource, with its hold. Nothing else is done for it meanwhile.
        :returns: the work, which returns the new hold.
        """
        raise NotImplementedError
