"""The calls of the lock program, without I/O, and what this connection holds by them."""

import os
import sys
from pathlib import Path
from uuid import uuid4

from lockd.client.protocol import Call
from lockd.client.resource import Resource
from lockd.wire import lock
from lockd.wire.lock import AcquireFlags, Owner, Procedure


def this_process(name: str | None = None) -> Owner:
    """Return this process as an owner.

    :param name: what others are told who holds the lock; by default the program's name.
    """
    pid = os.getpid()
    return Owner(uuid4(), name or Path(sys.argv[0]).name.lstrip("-") or "python", pid, pid)


class LockCalls:
    """Makes the calls of one connection.

    :ivar held: the resources that were acquired and not released, each as often as it is in the list. A daemon
        kills an owner that closes its connection while it holds any: so a connection that is closed releases
        them first.
    :ivar restricted: whether nothing can be released any more.
    """

    def __init__(self) -> None:
        self.held: list[Resource] = []
        self.restricted = False

    def register(self, owner: Owner) -> Call:
        """Make ``owner`` the one that this connection acquires and releases for."""
        return Call(Procedure.REGISTER, lock.encode_register(owner))

    def restrict(self) -> Call:
        """Give up all further calls."""
        return Call(Procedure.RESTRICT, lock.encode_flags(), self._restricted)

    def new_lockspace(self, lockspace: str) -> Call:
        """Make a lockspace that is not known yet."""
        return Call(Procedure.NEW, lock.encode_lockspace(lockspace))

    def create_lockspace(self, lockspace: str) -> Call:
        """Make a lockspace where it is not known."""
        return Call(Procedure.CREATE_LOCKSPACE, lock.encode_create_lockspace(lockspace))

    def create_resource(self, resource: Resource) -> Call:
        """Make a resource's file."""
        return Call(Procedure.CREATE_RESOURCE, lock.encode_resource(resource.lockspace, resource.name))

    def delete_resource(self, resource: Resource) -> Call:
        """Remove a resource's file."""
        return Call(Procedure.DELETE_RESOURCE, lock.encode_resource(resource.lockspace, resource.name))

    def acquire(self, resource: Resource, *, shared: bool) -> Call:
        """Take a lock."""
        flags = AcquireFlags.SHARED if shared else AcquireFlags(0)
        if resource.autocreate:
            flags |= AcquireFlags.AUTOCREATE
        payload = lock.encode_resource(resource.lockspace, resource.name, flags)
        return Call(Procedure.ACQUIRE_RESOURCE, payload, lambda: self.held.append(resource))

    def release(self, resource: Resource) -> Call:
        """Give a lock back."""
        payload = lock.encode_resource(resource.lockspace, resource.name)
        return Call(Procedure.RELEASE_RESOURCE, payload, lambda: self._released(resource))

    def to_release(self) -> list[Resource]:
        """Return what has to be released before the connection is closed, the latest first."""
        return [] if self.restricted else self.held[::-1]

    def _released(self, resource: Resource) -> None:
        # What another connection of the same owner acquired may be released here too.
        if resource in self.held:
            self.held.remove(resource)

    def _restricted(self) -> None:
        self.restricted = True
