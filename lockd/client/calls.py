"""The calls of the lock program, and the record of what a connection has acquired. There is no I/O here."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4
from weakref import WeakSet

from lockd.client.errors import NoAnswer
from lockd.client.protocol import Call
from lockd.client.resource import Resource
from lockd.wire import lock
from lockd.wire.lock import AcquireFlags, Owner, Procedure

CLOSING_TIMEOUT: Final = 10.0
"""How many seconds closing a connection waits for the daemon, unless the caller says otherwise."""


def not_closed(error: NoAnswer, held: Sequence[Resource]) -> NoAnswer:
    """Return the exception for a connection that cannot be closed, with a message for the user.

    :param error: what happened.
    :param held: the resources that are not released.
    :returns: the exception.
    """
    names = ", ".join(resource.path for resource in held) or "what it was asked for"
    return NoAnswer(f"{error}; {names} may stay locked until process {os.getpid()} ends")


def this_process(name: str | None = None) -> Owner:
    """Return this process as an owner, with a new random UUID.

    :param name: the name that other clients see when they ask for the lock; None for the name of the program.
    :returns: the owner.
    """
    pid = os.getpid()
    return Owner(uuid4(), name or Path(sys.argv[0]).name.lstrip("-") or "python", pid, pid)


_all: Final[WeakSet["LockCalls"]] = WeakSet()
_left_open: Final[list["LockCalls"]] = []
"""Those of connections that stay open until this process ends."""


class LockCalls:
    """Builds the calls of one connection, and records what they change.

    :ivar held: the resources that were acquired and not released. A resource that was acquired twice is in
        the list twice.
    :ivar asked: whether a lock was ever asked for. If not, there is nothing to release.
    :ivar owner: the owner that was registered, or None.
    :ivar restricted: whether the connection can no longer acquire or release anything.
    """

    def __init__(self) -> None:
        self.held: list[Resource] = []
        self.asked = False
        self.owner: Owner | None = None
        self.restricted = False
        self._process = os.getpid()
        self._is_copy = False
        _all.add(self)

    @property
    def is_inherited(self) -> bool:
        """Whether this process has the connection from its parent, by fork(2), and the locks are not its own."""
        pid = os.getpid()
        return self._is_copy or (pid != self._process and (self.owner is None or self.owner.pid != pid))

    def register(self, owner: Owner) -> Call:
        """Return the call that sets the owner of this connection. Locks are acquired and released for it.

        :param owner: the owner.
        :returns: the call.
        """
        return Call(Procedure.REGISTER, lock.encode_register(owner), lambda: self._registered(owner))

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
        self.asked = True
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

    def may_close(self) -> bool:
        """Return whether the daemon lets this process live if the connection is closed.

        It kills an owner that closes its connection while it has holdings, no matter on which connection it has
        acquired them.
        """
        pid = os.getpid()
        if self.owner is None or self.owner.pid != pid:
            return True
        same_owner = [calls for calls in list(_all) if calls.owner is not None and calls.owner.pid == pid]
        return not any(calls.held or calls in _left_open for calls in same_owner)

    def leave_open(self) -> None:
        """Record that the connection stays open until this process ends, and so do its holdings."""
        _left_open.append(self)

    def is_not_held(self, resource: Resource) -> None:
        """Record that the daemon does not know of this holding any more, or that it was released elsewhere.

        :param resource: the resource.
        """
        self._released(resource)

    def in_child(self) -> None:
        """Record that this process is a child, and its parent has made the connection.

        Their pids may be equal: the first process of a container, and a child of it in a container of its own.
        """
        self._is_copy = True

    def _registered(self, owner: Owner) -> None:
        self.owner = owner
        if owner.pid == os.getpid():
            self._is_copy = False

    def _released(self, resource: Resource) -> None:
        # An owner may also release on this connection what it acquired on another one.
        if resource in self.held:
            self.held.remove(resource)

    def _restricted(self) -> None:
        self.restricted = True


def _in_child() -> None:
    for calls in list(_all):
        calls.in_child()


os.register_at_fork(after_in_child=_in_child)
