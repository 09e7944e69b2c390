"""A blocking connection to the status program. ``lockctl`` uses it to query a running lockd."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from lockd import __version__
from lockd.client.errors import ConnectionLost, IncompatibleDaemon, UnknownProcedure
from lockd.client.protocol import Call, Protocol
from lockd.client.stream import BlockingStream
from lockd.libvirt.addresses import own_addresses
from lockd.wire.status import PROGRAM, VERSION, Procedure, decode_document, encode_document

_TIMEOUT: Final = 10.0
"""How many seconds to wait for a reply. The daemon answers from memory. If it takes longer, it is
stopped or hangs."""


class Answer(dict[str, Any]):
    """An object in a daemon's answer. A daemon of another version may lack a key of it."""

    def __missing__(self, key: str) -> Any:
        """Report a key that is not there.

        :param key: the key.
        :returns: never.
        :raises IncompatibleDaemon: always.
        """
        raise IncompatibleDaemon(
            f"the daemon does not tell '{key}': it is of another version than lockctl ({__version__}); "
            "after an update, reload it (systemctl reload virtlockd)"
        )


class StatusConnection:
    """Queries a daemon. The daemon's ``status_program`` defines the keys of the documents that are returned.

    As a context manager, it is closed at the end of the block. The methods raise ``UnknownProgram`` if the
    daemon is virtlockd, and ``ConnectionLost`` if it does not answer. A look-up in an answer raises
    ``IncompatibleDaemon`` if the daemon, of another version, does not tell what is looked up.

    :param stream: the connected stream. It is closed at the end of the block.
    """

    def __init__(self, stream: BlockingStream) -> None:
        self._stream = stream

    @classmethod
    def connect(cls, path: Path | None = None, *, timeout: float = _TIMEOUT) -> Self:
        """Connect to a daemon's admin socket.

        :param path: the socket; None for the admin socket of this process's user.
        :param timeout: how many seconds to wait for each reply.
        :returns: the connection.
        :raises ClientError: no daemon listens on the socket, or this user may not connect.
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
        """Return the daemon's version, its pid, and its load.

        :returns: the document.
        :raises UnknownProgram: the daemon is virtlockd.
        """
        return self._ask(Procedure.DAEMON, {})

    def locks(self) -> Iterator[dict[str, Any]]:
        """Iterate over all locks, in the order in which clients asked for them.

        :yields: the document of a lock.
        :raises UnknownProgram: the daemon is virtlockd.
        """
        latest: dict[str, Any] | None = None
        after: Any = 0
        while after is not None:
            page = self._ask(Procedure.LOCKS, {"after": after, "owners": "apart"})
            for lock in page["locks"]:
                if "owners" in page:  # an older daemon describes the owners with each lock
                    # The description has the pid on this host, if that is known, and the share a key.
                    lock["owners"] = [
                        Answer({**owner, **page["owners"][str(owner["pid"])]}) for owner in lock["owners"]
                    ]
                if latest is not None and latest["number"] == lock["number"]:
                    # The rest of its owners, for which the page before had no room.
                    latest["owners"] += lock["owners"]
                    continue
                if latest is not None:
                    yield latest
                latest = lock
            after = page["next"]
        if latest is not None:
            yield latest

    def lockspaces(self) -> Iterator[str]:
        """Iterate over the paths of all lockspaces, in the order in which they were made.

        :yields: the path; the direct lockspace is left out.
        :raises UnknownProgram: the daemon is virtlockd.
        """
        after: Any = 0
        while after is not None:
            try:
                page = self._ask(Procedure.LOCKSPACES, {"after": after})
            except UnknownProcedure:
                yield from self.daemon()["lockspaces"]
                return
            yield from page["lockspaces"]
            after = page["next"]

    def find(self, lockspace: str, name: str) -> dict[str, Any] | None:
        """Return the lock on a resource.

        :param lockspace: the path of the lockspace; empty for the direct lockspace.
        :param name: the name of the resource in the lockspace.
        :returns: the document of the lock, or None if nobody holds it.
        """
        return self._find({"lockspace": lockspace, "resource": name})

    def find_file(self, device: int, inode: int) -> dict[str, Any] | None:
        """Return the lock on a file, no matter by which name the file was locked.

        :param device: the device number of the file system; for a block device, the number of the device
            itself.
        :param inode: the inode number; -1 for a block device.
        :returns: the document of the lock, or None if nobody holds it.
        """
        return self._find({"device": device, "inode": inode})

    def _find(self, question: dict[str, Any]) -> dict[str, Any] | None:
        answer = self._ask(Procedure.FIND, question)
        lock: dict[str, Any] | None = answer["lock"]
        # An older daemon tells of all owners at once, and has no "next".
        while lock is not None and answer.get("next") is not None:
            answer = self._ask(Procedure.FIND, {**question, "after": answer["next"]})
            rest = answer["lock"]
            if rest is None or rest["number"] != lock["number"]:
                break  # it was released in the meantime
            lock["owners"] += rest["owners"]
        return lock

    def release(self, lockspace: str, name: str) -> list[int]:
        """Release a lock whose owners have all ended.

        :param lockspace: the path of the lockspace; empty for the direct lockspace.
        :param name: the name of the resource in the lockspace.
        :returns: the pids of the owners whose holdings were ended.
        :raises Refused: nobody holds the resource, or one of its owners may be alive.
        """
        released: list[int] = self._ask(Procedure.RELEASE, {"lockspace": lockspace, "resource": name})[
            "released"
        ]
        return released

    def _ask(self, procedure: Procedure, question: dict[str, Any]) -> dict[str, Any]:
        reply = self._stream.call(Call(procedure, encode_document(question)))
        try:
            return decode_document(reply, Answer)
        except ValueError as error:
            raise ConnectionLost(f"the daemon sent a status that cannot be read: {error}") from None
