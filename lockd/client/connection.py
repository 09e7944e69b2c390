"""A blocking connection to a lock daemon, lockd or virtlockd."""

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
    """Takes and gives back locks.

    Used as a context manager, it is closed at the end; see ``close`` for what that means to locks.
    All methods but ``detach`` raise ``Refused``, or one of its kinds, where the daemon refuses, and
    ``ConnectionLost`` where it does not answer.
    """

    def __init__(self, stream: BlockingStream) -> None:
        self._stream = stream
        self._calls = LockCalls()

    @classmethod
    def connect(cls, path: Path | None = None, *, timeout: float | None = None) -> Self:
        """Connect to a daemon's socket; by default, the own user's.

        :param timeout: seconds to wait for each reply; None for ever. A file on a network may take a while.
        :raises ClientError: nobody listens there, or this user may not connect.
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
        """Say for whom locks are taken; by default, for this process."""
        self._stream.call(self._calls.register(owner or this_process()))

    def new_lockspace(self, lockspace: str) -> None:
        """Make a lockspace that is not known yet, and its directory."""
        self._stream.call(self._calls.new_lockspace(lockspace))

    def create_lockspace(self, lockspace: str) -> None:
        """Make a lockspace, and its directory, where it is not known."""
        self._stream.call(self._calls.create_lockspace(lockspace))

    def create_resource(self, resource: Resource) -> None:
        """Make a resource's file where it is missing."""
        self._stream.call(self._calls.create_resource(resource))

    def delete_resource(self, resource: Resource) -> None:
        """Remove a resource's file where it is there."""
        self._stream.call(self._calls.delete_resource(resource))

    def acquire(self, resource: Resource, *, shared: bool = False) -> None:
        """Take a lock.

        :raises Busy: somebody else holds it.
        """
        self._stream.call(self._calls.acquire(resource, shared=shared))

    def release(self, resource: Resource) -> None:
        """Give a lock back.

        :raises NotHeld: nobody holds it.
        :raises NotOwner: others do.
        """
        self._stream.call(self._calls.release(resource))

    @contextmanager
    def holding(self, resource: Resource, *, shared: bool = False) -> Iterator[None]:
        """Take a lock for a ``with`` block."""
        self.acquire(resource, shared=shared)
        try:
            yield
        finally:
            self.release(resource)

    def restrict(self) -> None:
        """Give up all further calls: what is held stays held until this process ends."""
        self._stream.call(self._calls.restrict())

    def fileno(self) -> int:
        """Return the descriptor. It is readable when the daemon has closed the connection."""
        return self._stream.fileno()

    def detach(self) -> int:
        """Give the descriptor away, to be kept open, or inherited, as long as the process lives.

        :returns: the descriptor; it outlives an exec of this process.
        """
        descriptor = self._stream.detach()
        os.set_inheritable(descriptor, True)
        return descriptor

    def close(self) -> None:
        """Release what this connection has acquired, and end it.

        A restricted connection cannot release: the daemon kills its owner when it is closed.
        """
        try:
            with suppress(ConnectionLost):
                self._stream.wait()
                for resource in self._calls.to_release():
                    with suppress(Refused):
                        self.release(resource)
        finally:
            self._stream.close()
