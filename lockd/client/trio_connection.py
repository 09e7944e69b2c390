"""A trio connection to a lock daemon, lockd or virtlockd. It is ``connection`` with ``await``.

It is a module of its own because importing trio takes longer than most commands of ``lockctl`` run.
"""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from lockd.client.calls import CLOSING_TIMEOUT, LockCalls, not_closed, this_process
from lockd.client.errors import ClientError, ConnectionLost, NoAnswer, NotHeld, NotOwner, Refused
from lockd.client.protocol import Call, Protocol
from lockd.client.resource import Resource
from lockd.client.stream import RECEIVE_BYTES, check_listener, connect_error, lost
from lockd.libvirt.addresses import own_addresses
from lockd.wire.lock import PROGRAM, VERSION, Owner


class TrioLockConnection:
    """Acquires and releases locks.

    The methods are those of ``LockConnection``, and raise the same exceptions. Several tasks may share a
    connection; their calls are made one after the other. The daemon may carry out a call although its task
    was cancelled. A lock that was acquired in this way is released when the connection is closed.

    :param stream: the connected stream. It is closed with this object.
    :param path: the path that it is connected to.
    :param closing_timeout: how many seconds ``aclose`` and the end of ``holding`` wait for the daemon.
    """

    def __init__(
        self, stream: trio.SocketStream, path: Path, closing_timeout: float = CLOSING_TIMEOUT
    ) -> None:
        self._stream = stream
        self._path = path
        self._closing_timeout = closing_timeout
        self._protocol = Protocol(PROGRAM, VERSION)
        self._calls = LockCalls()
        self._turn = trio.Lock()
        self._call_under_way: trio.CancelScope | None = None
        self._unsent = b""
        self._ended = False

    @classmethod
    async def connect(cls, path: Path | None = None, *, closing_timeout: float = CLOSING_TIMEOUT) -> Self:
        """Connect to a daemon's socket.

        :param path: the socket; None for the socket of this process's user.
        :param closing_timeout: how many seconds ``aclose`` and the end of ``holding`` wait for the daemon.
        :returns: the connection.
        :raises ClientError: no daemon listens on the socket, this user may not connect, or the daemon is another
            user's and not root's.
        """
        where = path or own_addresses().socket
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection = trio.socket.from_stdlib_socket(plain)
        try:
            await connection.connect(str(where))
            check_listener(plain, where)
        except OSError as error:
            connection.close()
            raise connect_error(where, error) from None
        except BaseException:
            connection.close()
            raise
        return cls(trio.SocketStream(connection), where, closing_timeout)

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

        It is also released if the block is cancelled. If another task closes the connection, that releases it.

        :param resource: the resource.
        :param shared: whether other owners may hold the lock at the same time, if they share it too.
        :yields: None, while the lock is held.
        :raises Busy: somebody else holds the lock.
        :raises NoAnswer: the daemon has not answered the release for ``closing_timeout`` seconds. It may still carry
            it out.
        """
        await self.acquire(resource, shared=shared)
        try:
            yield
        finally:
            ended = self._ended or self._calls.is_inherited
            if not ended and not await self._in_time(partial(self._release_unless_closed, resource)):
                raise NoAnswer(f"the daemon does not answer; {resource.path} may stay locked")

    async def _release_unless_closed(self, resource: Resource) -> None:
        try:
            await self.release(resource)
        except trio.ClosedResourceError:
            if not self._ended:
                raise

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
        self._ended = True
        if self._calls.held:
            # Another connection of this process must not be closed meanwhile.
            self._calls.leave_open()
        descriptor = self._detach()
        os.set_inheritable(descriptor, True)
        return descriptor

    async def aclose(self) -> None:
        """Release what this process has acquired with this connection, and close it.

        If another task waits for a call, its call ends with ``trio.ClosedResourceError``. If this is cancelled, it
        releases and closes all the same, and waits for ``closing_timeout`` seconds at most, twice. What happens if
        the daemon does not answer by then: see ``LockConnection.close``.

        :raises NoAnswer: the daemon does not answer, and the connection stays open.
        """
        if self._ended:
            await trio.lowlevel.checkpoint()
            return
        self._ended = True
        if self._calls.is_inherited:
            # trio's own descriptors are copies too: what it watches is its parent's.
            os.close(self._stream.socket.detach())
            return
        if self._call_under_way is not None:
            self._call_under_way.cancel()
        try:
            answered = not self._calls.asked or await self._in_time(self._release_all)
        except ConnectionLost:
            await self._stream.aclose()
            return
        except BaseException:
            self._leave_open()
            raise
        if answered and self._calls.may_close():
            await self._stream.aclose()
            return
        if not answered:
            with suppress(ClientError):
                await self._in_time(self._release_elsewhere)
        self._leave_open()
        await trio.lowlevel.checkpoint()
        if not answered:
            raise not_closed(NoAnswer("the daemon does not answer"), self._calls.held)

    async def _in_time(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Wait for ``closing_timeout`` seconds at most, even if cancelled. Return whether the work was done."""
        with trio.move_on_after(self._closing_timeout, shield=True) as scope:
            await work()
        return not scope.cancelled_caught

    async def _release_all(self) -> None:
        # Another task may be just about to leave.
        async with self._turn:
            await self._wait()
            for resource in self._calls.to_release():
                try:
                    await self._exchange(self._calls.release(resource))
                except (NotHeld, NotOwner):
                    self._calls.is_not_held(resource)
                except Refused:
                    continue  # it stays held

    async def _release_elsewhere(self) -> None:
        """Release by a second connection, which stays open too. See ``LockConnection``."""
        if not self._calls.held or self._calls.owner is None:
            return
        other = await type(self).connect(self._path)
        try:
            await other._exchange(other._calls.register(self._calls.owner))
            for resource in self._calls.held[::-1]:
                with suppress(NotHeld, NotOwner):
                    await other._exchange(other._calls.release(resource))
                self._calls.is_not_held(resource)
        finally:
            other._leave_open()

    def _leave_open(self) -> None:
        self._calls.leave_open()
        self._detach()

    def _detach(self) -> int:
        connection = self._stream.socket
        # Tasks that wait for it have to know (trio.lowlevel.notify_closing).
        trio.lowlevel.notify_closing(connection.fileno())
        return connection.detach()

    async def _call(self, call: Call) -> bytes:
        async with self._turn:
            if self._ended:
                raise trio.ClosedResourceError("the connection is closed")
            with trio.CancelScope() as scope:
                self._call_under_way = scope
                try:
                    return await self._exchange(call)
                finally:
                    self._call_under_way = None
            raise trio.ClosedResourceError("another task closes the connection")

    async def _exchange(self, call: Call) -> bytes:
        await self._wait()
        self._unsent += self._protocol.send(call)
        await self._wait()
        return self._protocol.result()

    async def _wait(self) -> None:
        """Send what is left to send, and wait for the replies to all calls.

        It can be cancelled at any point. The next call, or the end of the connection, continues: after half a call,
        the connection could only be closed.
        """
        try:
            while self._unsent:
                sent = await self._stream.socket.send(self._unsent)
                self._unsent = self._unsent[sent:]
            while not self._protocol.answered:
                self._protocol.receive(await self._stream.socket.recv(RECEIVE_BYTES))
        except OSError as error:
            raise lost(error) from None
