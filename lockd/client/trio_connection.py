"""A trio connection to a lock daemon, lockd or virtlockd: ``connection`` with ``await``.

It is a module of its own because importing trio takes longer than most commands run.
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
    """Takes and gives back locks.

    The methods are those of ``LockConnection``, and raise the same. Tasks may share a connection: their calls
    are made one after the other. A call that is cancelled may be done all the same; what it acquired is
    released when the connection is closed.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._protocol = Protocol(PROGRAM, VERSION)
        self._calls = LockCalls()
        self._turn = trio.Lock()

    @classmethod
    async def connect(cls, path: Path | None = None) -> Self:
        """Connect to a daemon's socket; by default, the own user's.

        :raises ClientError: nobody listens there, or this user may not connect.
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
        """Say for whom locks are taken; by default, for this process."""
        await self._call(self._calls.register(owner or this_process()))

    async def new_lockspace(self, lockspace: str) -> None:
        """Make a lockspace that is not known yet, and its directory."""
        await self._call(self._calls.new_lockspace(lockspace))

    async def create_lockspace(self, lockspace: str) -> None:
        """Make a lockspace, and its directory, where it is not known."""
        await self._call(self._calls.create_lockspace(lockspace))

    async def create_resource(self, resource: Resource) -> None:
        """Make a resource's file where it is missing."""
        await self._call(self._calls.create_resource(resource))

    async def delete_resource(self, resource: Resource) -> None:
        """Remove a resource's file where it is there."""
        await self._call(self._calls.delete_resource(resource))

    async def acquire(self, resource: Resource, *, shared: bool = False) -> None:
        """Take a lock.

        :raises Busy: somebody else holds it.
        """
        await self._call(self._calls.acquire(resource, shared=shared))

    async def release(self, resource: Resource) -> None:
        """Give a lock back.

        :raises NotHeld: nobody holds it.
        :raises NotOwner: others do.
        """
        await self._call(self._calls.release(resource))

    @asynccontextmanager
    async def holding(self, resource: Resource, *, shared: bool = False) -> AsyncIterator[None]:
        """Take a lock for an ``async with`` block; it is released also where the block is cancelled."""
        await self.acquire(resource, shared=shared)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await self.release(resource)

    async def restrict(self) -> None:
        """Give up all further calls: what is held stays held until this process ends."""
        await self._call(self._calls.restrict())

    def fileno(self) -> int:
        """Return the descriptor. It is readable when the daemon has closed the connection."""
        return self._stream.socket.fileno()

    def detach(self) -> int:
        """Give the descriptor away, to be kept open, or inherited, as long as the process lives.

        :returns: the descriptor; it outlives an exec of this process, which has to make it blocking again.
        """
        descriptor = self._stream.socket.detach()
        os.set_inheritable(descriptor, True)
        return descriptor

    async def aclose(self) -> None:
        """Release what this connection has acquired, and end it; also where the task is cancelled.

        A restricted connection cannot release: the daemon kills its owner when it is closed.
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
            # Half a call would be the end of the connection, and of its owner: all of it is sent, or nothing.
            with trio.CancelScope(shield=True):
                try:
                    await self._stream.send_all(self._protocol.send(call))
                except trio.BrokenResourceError as error:
                    raise lost(error.__cause__) from None
            await self._wait()
            return self._protocol.result()

    async def _wait(self) -> None:
        """Wait for all replies that are due."""
        while not self._protocol.answered:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError as error:
                raise lost(error.__cause__) from None
            self._protocol.receive(bytes(data))
