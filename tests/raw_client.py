"""A client of the lock program that can send frames that the client library never sends."""

import socket
from types import TracebackType
from typing import Self
from uuid import UUID

from lockd.wire import lock
from lockd.wire.errors import ErrorReply
from lockd.wire.frames import HEADER, FrameType, encode
from lockd.wire.lock import Owner, Procedure
from tests.private_daemon import PrivateDaemon

NOBODY = 4_000_001
"""A pid for an owner that no process can have, so that a daemon never kills a process for it."""

SHARED, AUTOCREATE = 1, 2


class RawClient:
    """A connection to a daemon: the given socket, or a new one if a daemon is given.

    It is registered for a guest with the pid `owner`, unless that is None. Calls return the daemon's error
    message, or None if they succeed.
    """

    def __init__(
        self,
        daemon: PrivateDaemon | socket.socket,
        owner: int | None = NOBODY,
        *,
        name: str = "vm1",
        patience: float = 15,
    ) -> None:
        self.socket = daemon if isinstance(daemon, socket.socket) else daemon.connect()
        self.socket.settimeout(patience)
        self._serial = 0
        if owner is not None:
            assert self.register(owner, name) is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def frame(self, procedure: int, payload: bytes, kind: int = FrameType.CALL) -> bytes:
        self._serial += 1
        return encode(lock.PROGRAM, lock.VERSION, procedure, kind, self._serial, 0, payload)

    def call(self, procedure: int, payload: bytes) -> str | None:
        """Send a call; return the daemon's error message, or None if the call succeeded.

        Raises TimeoutError if there is no answer, ConnectionResetError if the daemon closes the connection.
        """
        self.socket.sendall(self.frame(procedure, payload))
        return self.reply()

    def reply(self) -> str | None:
        error = self.error_reply()
        return None if error is None else error.message

    def error_reply(self) -> ErrorReply | None:
        """Read a reply; return the error in it, or None."""
        *_, status = HEADER.unpack(header := self._exactly(HEADER.size))
        payload = self._exactly(HEADER.unpack(header)[0] - HEADER.size)
        return ErrorReply.decode(payload) if status else None

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError
            data += more
        return data

    def register(self, pid: int, name: str = "vm1") -> str | None:
        return self.call(Procedure.REGISTER, lock.encode_register(Owner(UUID(int=7), name, 1, pid)))

    def new(self, lockspace: object) -> str | None:
        return self.call(Procedure.NEW, lock.encode_lockspace(str(lockspace)))

    def create_lockspace(self, lockspace: object) -> str | None:
        return self.call(Procedure.CREATE_LOCKSPACE, lock.encode_create_lockspace(str(lockspace)))

    def acquire(self, name: object, lockspace: object = "", flags: int = 0) -> str | None:
        return self._on_resource(Procedure.ACQUIRE_RESOURCE, name, lockspace, flags)

    def release(self, name: object, lockspace: object = "") -> str | None:
        return self._on_resource(Procedure.RELEASE_RESOURCE, name, lockspace, 0)

    def create(self, name: object, lockspace: object = "") -> str | None:
        return self._on_resource(Procedure.CREATE_RESOURCE, name, lockspace, 0)

    def delete(self, name: object, lockspace: object = "") -> str | None:
        return self._on_resource(Procedure.DELETE_RESOURCE, name, lockspace, 0)

    def _on_resource(self, procedure: Procedure, name: object, lockspace: object, flags: int) -> str | None:
        return self.call(procedure, lock.encode_resource(str(lockspace), str(name), flags))
