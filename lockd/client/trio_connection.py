"""A trio connection to a lock daemon, lockd or virtlockd. It is ``connection`` with ``await``.

It is a module of its own because importing trio takes longer than most commands of ``lockctl`` run.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from lockd.client.calls import LockCalls, this_process
from lockd.client.errors import ConnectionLost, Refused
from lockd.client.protocol import Call, Protocol
from lockd.client.resource import Resource
from lockd.client.stream import RECEIVE_BYTES, connect_error, lost
from lockd.libvirt.addresses import own_addresses
from lockd.wire.lock import PROGRAM, VERSION, Owner


class TrioLockConnection:
    """Acquires and releases locks.

    The methods are those of ``LockConnection``, and raise the same exceptions. Several tasks may share a
    connection; their calls are made one after the other. The daemon may carry out a call although its task
    was cancelled. A lock that was acquired in this way is released when the connection is closed.

    :param stream: the connected stream. It is closed with this object.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._protocol = Protocol(PROGRAM, VERSION)
        self._calls = LockCalls()
        self._turn = trio.Lock()

    @classmethod
    async def connect(cls, path: Path | None = None) -> Self:
        """Connect to a daemon's socket.

        :param path: the socket; None for the socket of this process's user.
        :returns: the connection.
        :raises ClientError: no daemon listens on the socket, or this user may not connect.
        """
        where = path or own_addresses().socket
        connection = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        try:
            await connection.connect(str(where))
        except OSError as error:
            connection.close()
            raise connect_error(where, error) from None
        except BaseException:
            connection.close()
            raise
        return cls(trio.SocketStream(connection))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def register(self, owner: Owner | None = None) -> None:
        """Set the owner that this connection acquires and releases locks for.

        :param owner: the owner; None for this process.
        """
        await self._call(self._calls.register(owner or this_process()))

    async def new_lockspace(self, lockspace: str) -> None:
        """Make a lockspace and its directory.

        :param lockspace: the path of the directory.
        :raises LockspaceExists: the daemon knows the lockspace already.
        :raises NotADirectory: the path belongs to something else.
        :raises SystemCallFailed: the directory cannot be made.
        """
        await self._call(self._calls.new_lockspace(lockspace))

    async def create_lockspace(self, lockspace: str) -> None:
        """Make a lockspace and its directory; no effect if the daemon knows the lockspace already.

        :param lockspace: the path of the directory.
        :raises NotADirectory: the path belongs to something else.
        :raises SystemCallFailed: the directory cannot be made.
        """
        await self._call(self._calls.create_lockspace(lockspace))

    async def create_resource(self, resource: Resource) -> None:
        """Create the file of a resource; no effect if it exists.

        :param resource: the resource.
        :raises Busy: the resource is held.
        :raises UnknownLockspace: the daemon does not know the lockspace.
        :raises SystemCallFailed: the file cannot be created.
        """
        await self._call(self._calls.create_resource(resource))

    async def delete_resource(self, resource: Resource) -> None:
        """Delete the file of a resource; no effect if it does not exist.

        :param resource: the resource.
        :raises Busy: the resource is held.
        :raises UnknownLockspace: the daemon does not know the lockspace.
        :raises SystemCallFailed: the file cannot be deleted.
        """
        await self._call(self._calls.delete_resource(resource))

    async def acquire(self, resource: Resource, *, shared: bool = False) -> None:
        """Acquire a lock. This does not wait for the lock to become free.

        :param resource: the resource.
        :param shared: whether other owners may hold the lock at the same time, if they share it too.
        :raises Busy: somebody else holds the lock.
        :raises UnknownLockspace: the daemon does not know the lockspace.
        :raises SystemCallFailed: the file cannot be opened or locked.
        """
        await self._call(self._calls.acquire(resource, shared=shared))

    async def release(self, resource: Resource) -> None:
        """Release a lock.

        :param resource: the resource.
        :raises NotHeld: nobody holds the lock.
        :raises NotOwner: only other owners hold the lock.
        """
        await self._call(self._calls.release(resource))

    @asynccontextmanager
    async def holding(self, resource: Resource, *, shared: bool = False) -> AsyncIterator[None]:
        """Acquire a lock, and release it at the end of the ``async with`` block.

        It is also released if the block is cancelled.

        :param resource: the resource.
        :param shared: whether other owners may hold the lock at the same time, if they share it too.
        :yields: None, while the lock is held.
        :raises Busy: somebody else holds the lock.
        """
        await self.acquire(resource, shared=shared)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await self.release(resource)

    async def restrict(self) -> None:
        """Give up all further calls. The locks that are held stay held until the owner ends."""
        await self._call(self._calls.restrict())

    def fileno(self) -> int:
        """Return the descriptor of the socket. It becomes readable when the daemon closes the connection."""
        return self._stream.socket.fileno()

    def detach(self) -> int:
        """Return the descriptor of the socket, and leave it open, also across execve(2).

        The locks are held as long as the connection is open and the owner lives. This object cannot be used
        any more. The descriptor is non-blocking; a program that expects a blocking one has to change that.

        :returns: the descriptor, to be closed by the caller.
        """
        descriptor = self._stream.socket.detach()
        os.set_inheritable(descriptor, True)
        return descriptor

    async def aclose(self) -> None:
        """Release what this connection has acquired, and close it. Cancellation does not interrupt this.

        A restricted connection cannot release anything. If it still has locks, the daemon kills the owner
        when the connection is closed.
        """
        with trio.CancelScope(shield=True):
            try:
                with suppress(ConnectionLost):
                    await self._wait()
                    for resource in self._calls.to_release():
                        with suppress(Refused):
                            await self.release(resource)
            finally:
                await self._stream.aclose()

    async def _call(self, call: Call) -> bytes:
        async with self._turn:
            await self._wait()
            # Shielded, so that a call is sent either completely or not at all. After half a call
            # the connection could only be closed, and the daemon would kill the owner.
            with trio.CancelScope(shield=True):
                try:
                    await self._stream.send_all(self._protocol.send(call))
                except trio.BrokenResourceError as error:
                    raise lost(error.__cause__) from None
            await self._wait()
            return self._protocol.result()

    async def _wait(self) -> None:
        """Wait for the replies to all calls that were sent."""
        while not self._protocol.answered:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError as error:
                raise lost(error.__cause__) from None
            self._protocol.receive(bytes(data))
