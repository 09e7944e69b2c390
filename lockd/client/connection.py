"""A blocking connection to a lock daemon: lockd or virtlockd."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lockd.client.calls import LockCalls, this_process
from lockd.client.errors import ConnectionLost, Refused
from lockd.client.protocol import Protocol
from lockd.client.resource import Resource
from lockd.client.stream import BlockingStream
from lockd.libvirt.addresses import own_addresses
from lockd.wire.lock import PROGRAM, VERSION, Owner


class LockConnection:
    """Acquires and releases locks.

    As a context manager, it is closed at the end of the block; ``close`` describes what happens to the locks.
    All methods except ``fileno``, ``detach`` and ``close`` raise ``Refused`` or a subclass of it if the
    daemon refuses, and ``ConnectionLost`` if it does not answer.

    :param stream: the connected stream. It is closed with this object.
    """

    def __init__(self, stream: BlockingStream) -> None:
        self._stream = stream
        self._calls = LockCalls()

    @classmethod
    def connect(cls, path: Path | None = None, *, timeout: float | None = None) -> Self:
        """Connect to a daemon's socket.

        :param path: the socket; None for the socket of this process's user.
        :param timeout: how many seconds to wait for each reply; None for no limit. If the file is on a
            network file system, a reply may take long.
        :returns: the connection.
        :raises ClientError: no daemon listens on the socket, or this user may not connect.
        """
        where = path or own_addresses().socket
        return cls(BlockingStream.connect(where, Protocol(PROGRAM, VERSION), timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def register(self, owner: Owner | None = None) -> None:
        """Set the owner that this connection acquires and releases locks for.

        :param owner: the owner; None for this process.
        """
        self._stream.call(self._calls.register(owner or this_process()))

    def new_lockspace(self, lockspace: str) -> None:
        """Make a lockspace and its directory.

        :param lockspace: the path of the directory.
        :raises LockspaceExists: the daemon knows the lockspace already.
        :raises NotADirectory: the path belongs to something else.
        :raises SystemCallFailed: the directory cannot be made.
        """
        self._stream.call(self._calls.new_lockspace(lockspace))

    def create_lockspace(self, lockspace: str) -> None:
        """Make a lockspace and its directory; no effect if the daemon knows the lockspace already.

        :param lockspace: the path of the directory.
        :raises NotADirectory: the path belongs to something else.
        :raises SystemCallFailed: the directory cannot be made.
        """
        self._stream.call(self._calls.create_lockspace(lockspace))

    def create_resource(self, resource: Resource) -> None:
        """Create the file of a resource; no effect if it exists.

        :param resource: the resource.
        :raises Busy: the resource is held.
        :raises UnknownLockspace: the daemon does not know the lockspace.
        :raises SystemCallFailed: the file cannot be created.
        """
        self._stream.call(self._calls.create_resource(resource))

    def delete_resource(self, resource: Resource) -> None:
        """Delete the file of a resource; no effect if it does not exist.

        :param resource: the resource.
        :raises Busy: the resource is held.
        :raises UnknownLockspace: the daemon does not know the lockspace.
        :raises SystemCallFailed: the file cannot be deleted.
        """
        self._stream.call(self._calls.delete_resource(resource))

    def acquire(self, resource: Resource, *, shared: bool = False) -> None:
        """Acquire a lock. This does not wait for the lock to become free.

        :param resource: the resource.
        :param shared: whether other owners may hold the lock at the same time, if they share it too.
        :raises Busy: somebody else holds the lock.
        :raises UnknownLockspace: the daemon does not know the lockspace.
        :raises SystemCallFailed: the file cannot be opened or locked.
        """
        self._stream.call(self._calls.acquire(resource, shared=shared))

    def release(self, resource: Resource) -> None:
        """Release a lock.

        :param resource: the resource.
        :raises NotHeld: nobody holds the lock.
        :raises NotOwner: only other owners hold the lock.
        """
        self._stream.call(self._calls.release(resource))

    @contextmanager
    def holding(self, resource: Resource, *, shared: bool = False) -> Iterator[None]:
        """Acquire a lock, and release it at the end of the ``with`` block.

        :param resource: the resource.
        :param shared: whether other owners may hold the lock at the same time, if they share it too.
        :yields: None, while the lock is held.
        :raises Busy: somebody else holds the lock.
        """
        self.acquire(resource, shared=shared)
        try:
            yield
        finally:
            self.release(resource)

    def restrict(self) -> None:
        """Give up all further calls. The locks that are held stay held until the owner ends."""
        self._stream.call(self._calls.restrict())

    def fileno(self) -> int:
        """Return the descriptor of the socket. It becomes readable when the daemon closes the connection."""
        return self._stream.fileno()

    def detach(self) -> int:
        """Return the descriptor of the socket, and leave it open, also across execve(2).

        The locks are held as long as the connection is open and the owner lives. This object cannot be used
        any more.

        :returns: the descriptor, to be closed by the caller.
        """
        descriptor = self._stream.detach()
        os.set_inheritable(descriptor, True)
        return descriptor

    def close(self) -> None:
        """Release what this connection has acquired, and close it.

        A restricted connection cannot release anything. If it still has locks, the daemon kills the owner
        when the connection is closed.
        """
        try:
            with suppress(ConnectionLost):
                self._stream.wait()
                for resource in self._calls.to_release():
                    with suppress(Refused):
                        self.release(resource)
        finally:
            self._stream.close()
