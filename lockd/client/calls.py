"""The calls of the lock program, and the record of what a connection has acquired. There is no I/O here."""

import os
import sys
from pathlib import Path
from uuid import uuid4

from lockd.client.protocol import Call
from lockd.client.resource import Resource
from lockd.wire import lock
from lockd.wire.lock import AcquireFlags, Owner, Procedure


def this_process(name: str | None = None) -> Owner:
    """Return this process as an owner, with a new random UUID.

    :param name: the name that other clients see when they ask for the lock; None for the name of the program.
    :returns: the owner.
    """
    pid = os.getpid()
    return Owner(uuid4(), name or Path(sys.argv[0]).name.lstrip("-") or "python", pid, pid)


class LockCalls:
    """Builds the calls of one connection, and records what they change.

    :ivar held: the resources that were acquired and not released. A resource that was acquired twice is in
        the list twice. The daemon kills an owner that closes its connection while it has holdings. So a
        client has to release them before it closes the connection.
    :ivar restricted: whether the connection can no longer acquire or release anything.
    """

    def __init__(self) -> None:
        self.held: list[Resource] = []
        self.restricted = False

    def register(self, owner: Owner) -> Call:
        """Return the call that sets the owner of this connection. Locks are acquired and released for it.

        :param owner: the owner.
        :returns: the call.
        """
        return Call(Procedure.REGISTER, lock.encode_register(owner))

    def restrict(self) -> Call:
        """Return the call that gives up all further calls of this connection."""
        return Call(Procedure.RESTRICT, lock.encode_flags(), self._restricted)

    def new_lockspace(self, lockspace: str) -> Call:
        """Return the call that makes a lockspace. The daemon refuses it if the lockspace is known.

        :param lockspace: the path of its directory.
        :returns: the call.
        """
        return Call(Procedure.NEW, lock.encode_lockspace(lockspace))

    def create_lockspace(self, lockspace: str) -> Call:
        """Return the call that makes a lockspace; no effect if the daemon knows it already.

        :param lockspace: the path of its directory.
        :returns: the call.
        """
        return Call(Procedure.CREATE_LOCKSPACE, lock.encode_create_lockspace(lockspace))

    def create_resource(self, resource: Resource) -> Call:
        """Return the call that creates the file of a resource.

        :param resource: the resource.
        :returns: the call.
        """
        return Call(Procedure.CREATE_RESOURCE, lock.encode_resource(resource.lockspace, resource.name))

    def delete_resource(self, resource: Resource) -> Call:
        """Return the call that deletes the file of a resource.

        :param resource: the resource.
        :returns: the call.
        """
        return Call(Procedure.DELETE_RESOURCE, lock.encode_resource(resource.lockspace, resource.name))

    def acquire(self, resource: Resource, *, shared: bool) -> Call:
        """Return the call that acquires a lock.

        :param resource: the resource.
        :param shared: whether other owners may hold the lock at the same time, if they share it too.
        :returns: the call. When it succeeds, ``held`` is extended.
        """
        flags = AcquireFlags.SHARED if shared else AcquireFlags(0)
        if resource.autocreate:
            flags |= AcquireFlags.AUTOCREATE
        payload = lock.encode_resource(resource.lockspace, resource.name, flags)
        return Call(Procedure.ACQUIRE_RESOURCE, payload, lambda: self.held.append(resource))

    def release(self, resource: Resource) -> Call:
        """Return the call that releases a lock.

        :param resource: the resource.
        :returns: the call. When it succeeds, the resource is removed from ``held``.
        """
        payload = lock.encode_resource(resource.lockspace, resource.name)
        return Call(Procedure.RELEASE_RESOURCE, payload, lambda: self._released(resource))

    def to_release(self) -> list[Resource]:
        """Return the resources to release before the connection is closed, the latest acquired first."""
        return [] if self.restricted else self.held[::-1]

    def _released(self, resource: Resource) -> None:
        # An owner may also release on this connection what it acquired on another one.
        if resource in self.held:
            self.held.remove(resource)

    def _restricted(self) -> None:
        self.restricted = True
