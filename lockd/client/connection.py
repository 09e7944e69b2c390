"""A blocking connection to a lock daemon: lockd or virtlockd."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lockd.client.calls import CLOSING_TIMEOUT, LockCalls, not_closed, this_process
from lockd.client.errors import ClientError, ConnectionLost, NoAnswer, NotHeld, NotOwner, Refused
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
    :param closing_timeout: how many seconds ``close`` waits for the daemon.
    """

    def __init__(self, stream: BlockingStream, closing_timeout: float = CLOSING_TIMEOUT) -> None:
        self._stream = stream
        self._closing_timeout = closing_timeout
        self._calls = LockCalls()
        self._ended = False

    @classmethod
    def connect(
        cls,
        path: Path | None = None,
        *,
        timeout: float | None = None,
        closing_timeout: float = CLOSING_TIMEOUT,
    ) -> Self:
        """Connect to a daemon's socket.

        :param path: the socket; None for the socket of this process's user.
        :param timeout: how many seconds to wait for each reply; None for no limit. If the file is on a
            network file system, a reply may take long. The daemon may carry out the call later; then ``close``
            releases the lock.
        :param closing_timeout: how many seconds ``close`` waits for the daemon; see there.
        :returns: the connection.
        :raises ClientError: no daemon listens on the socket, this user may not connect, or the daemon is another
            user's and not root's.
        """
        where = path or own_addresses().socket
        return cls(BlockingStream.connect(where, Protocol(PROGRAM, VERSION), timeout), closing_timeout)

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
        """Acquire a lock, and release it at the end of the ``with`` block. A child that was forked in it does not.

        :param resource: the resource.
        :param shared: whether other owners may hold the lock at the same time, if they share it too.
        :yields: None, while the lock is held.
        :raises Busy: somebody else holds the lock.
        """
        self.acquire(resource, shared=shared)
        try:
            yield
        finally:
            if not self._calls.is_inherited:
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
        self._ended = True
        if self._calls.held:
            # Another connection of this process must not be closed meanwhile.
            self._calls.leave_open()
        descriptor = self._stream.detach()
        os.set_inheritable(descriptor, True)
        return descriptor

    def close(self) -> None:
        """Release what this process has acquired with this connection, and close it.

        The daemon kills an owner that closes its connection while it holds locks. So the connection is closed only
        if everything is released. If the daemon does not answer for ``closing_timeout`` seconds, the locks are
        released by a second connection, for as many seconds at most. If a call is unanswered then, or a lock cannot
        be released, the connections stay open until this process ends, and the locks that are left stay held. So
        they do if the connection is restricted, or if this process holds locks with another connection.

        A child that was forked meanwhile only closes its copy of the connection: the locks are its parent's.

        :raises NoAnswer: the daemon does not answer, and the connection stays open.
        """
        if self._ended:
            return
        self._ended = True
        if self._calls.is_inherited:
            self._stream.close()
            return
        try:
            if self._calls.asked:
                self._stream.wait_no_longer_than(self._closing_timeout)
                self._release_all()
        except NoAnswer as error:
            with suppress(ClientError):
                self._release_elsewhere()
            self._leave_open()
            raise not_closed(error, self._calls.held) from None
        except ConnectionLost:
            self._stream.close()
            return
        except BaseException:
            self._leave_open()
            raise
        if self._calls.may_close():
            self._stream.close()
        else:
            self._leave_open()

    def _release_all(self) -> None:
        self._stream.wait()
        for resource in self._calls.to_release():
            try:
                self._stream.call(self._calls.release(resource))
            except (NotHeld, NotOwner):
                self._calls.is_not_held(resource)
            except Refused:
                continue  # it stays held

    def _release_elsewhere(self) -> None:
        """Release by a second connection: the daemon answers the calls of one connection in their order.

        The second connection stays open too. Closing it would have the daemon look for locks of its owner.
        """
        if not self._calls.held or self._calls.owner is None:
            return
        stream = BlockingStream.connect(self._stream.path, Protocol(PROGRAM, VERSION), self._closing_timeout)
        try:
            stream.wait_no_longer_than(self._closing_timeout)
            stream.call(self._calls.register(self._calls.owner))
            for resource in self._calls.held[::-1]:
                with suppress(NotHeld, NotOwner):
                    stream.call(self._calls.release(resource))
                self._calls.is_not_held(resource)
        finally:
            stream.detach()

    def _leave_open(self) -> None:
        self._calls.leave_open()
        self._stream.detach()
