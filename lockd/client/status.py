"""A blocking connection to the status program: what ``lockctl`` asks of a running lockd."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from lockd.client.errors import ConnectionLost
from lockd.client.protocol import Call, Protocol
from lockd.client.stream import BlockingStream
from lockd.libvirt.addresses import own_addresses
from lockd.wire.status import PROGRAM, VERSION, Procedure, decode_document, encode_document

_TIMEOUT: Final = 10.0
"""Seconds. The daemon answers from memory: one that takes longer is stopped or hung."""


class StatusConnection:
    """Asks a daemon about itself. Documents are as the daemon's ``status_program`` makes them."""

    def __init__(self, stream: BlockingStream) -> None:
        self._stream = stream

    @classmethod
    def connect(cls, path: Path | None = None, *, timeout: float = _TIMEOUT) -> Self:
        """Connect to a daemon's admin socket; by default, the own user's.

        :param timeout: seconds to wait for each reply.
        :raises ClientError: nobody listens there, or this user may not connect.
        """
        where = path or own_addresses().admin_socket
        return cls(BlockingStream.connect(where, Protocol(PROGRAM, VERSION), timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def daemon(self) -> dict[str, Any]:
        """Return the daemon's version, pid, and how much it has to do.

        :raises UnknownProgram: it is virtlockd.
        """
        return self._ask(Procedure.DAEMON, {})

    def locks(self) -> Iterator[dict[str, Any]]:
        """Yield all locks, in the order in which they were asked for.

        :raises UnknownProgram: it is virtlockd.
        """
        after: int | None = 0
        while after is not None:
            page = self._ask(Procedure.LOCKS, {"after": after})
            yield from page["locks"]
            after = page["next"]

    def find(self, lockspace: str, name: str) -> dict[str, Any] | None:
        """Return the lock on a resource, or None where nobody holds it."""
        lock: dict[str, Any] | None = self._ask(Procedure.FIND, {"lockspace": lockspace, "resource": name})[
            "lock"
        ]
        return lock

    def find_file(self, device: int, inode: int) -> dict[str, Any] | None:
        """Return the lock on a file, whatever name it was locked by, or None.

        :param device: of the file system; of a block device its own number, and then ``inode`` is -1.
        """
        lock: dict[str, Any] | None = self._ask(Procedure.FIND, {"device": device, "inode": inode})["lock"]
        return lock

    def release(self, lockspace: str, name: str) -> list[int]:
        """End the holdings of owners that are gone or unknown.

        :returns: the owners' pids.
        :raises Refused: nobody holds the resource, or a living process does.
        """
        released: list[int] = self._ask(Procedure.RELEASE, {"lockspace": lockspace, "resource": name})[
            "released"
        ]
        return released

    def _ask(self, procedure: Procedure, question: dict[str, Any]) -> dict[str, Any]:
        reply = self._stream.call(Call(procedure, encode_document(question)))
        try:
            return decode_document(reply)
        except ValueError as error:
            raise ConnectionLost(f"the daemon sent a status that cannot be read: {error}") from None
