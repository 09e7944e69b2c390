"""The status program: what ``lockctl`` asks of a running daemon."""

import os
from time import time
from typing import Any, Final

from lockd import __version__
from lockd.daemon.explain import owner_words
from lockd.daemon.locker import Locker
from lockd.daemon.owners import Owners
from lockd.daemon.server import Server, error_reply
from lockd.daemon.session import Session
from lockd.locks.resource import Resource
from lockd.locks.table import LockTable
from lockd.wire.errors import invalid_argument, operation_invalid, rpc_error
from lockd.wire.frames import Frame, encode_reply
from lockd.wire.status import Procedure, decode_document, encode_document

_PAGE_LOCKS: Final = 500
"""Locks told in one reply: about 2 ms of the reactor's time."""


class StatusProgram:
    """Answers the calls of the status program; on the admin socket, so to the daemon's own user only."""

    def __init__(self, table: LockTable, locker: Locker, owners: Owners, lock_server: Server) -> None:
        self._table = table
        self._locker = locker
        self._owners = owners
        self._lock_server = lock_server
        self._started = time()

    def answer(self, _session: Session, call: Frame) -> bytes | None:
        """Return the reply's bytes."""
        try:
            question = decode_document(call.payload)
        except ValueError:
            return error_reply(call, rpc_error("Unable to decode message payload"))
        match call.procedure:
            case Procedure.LOCKS:
                return encode_reply(call, encode_document(self._locks(question)))
            case Procedure.DAEMON:
                return encode_reply(call, encode_document(self._daemon()))
            case Procedure.RELEASE:
                return self._release(call, question)
        return error_reply(call, rpc_error(f"unknown procedure: {call.procedure}"))

    def _daemon(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": self._started,
            "clients": len(self._lock_server.sessions),
            "locks": len(self._table),
            "lockspaces": self._table.lockspaces,
        }

    def _locks(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return a page of the locks: those that were asked for after the one that ``after`` numbers."""
        after = question.get("after", 0)
        if not isinstance(after, int):
            after = 0
        later = [resource for resource in self._table if resource.number > after]
        later.sort(key=lambda resource: resource.number)
        page = later[:_PAGE_LOCKS]
        connections = {session.owner.pid: session.id for session in self._owner_sessions()}
        return {
            "locks": [self._lock(resource, connections) for resource in page],
            "next": page[-1].number if len(later) > len(page) else None,
        }

    def _owner_sessions(self) -> list[Any]:
        sessions = self._lock_server.sessions.values()
        return [session for session in sessions if session.owner and session.owner.pid == session.peer_pid]

    def _lock(self, resource: Resource, connections: dict[int, int]) -> dict[str, Any]:
        claim = resource.claim
        return {
            "number": resource.number,
            "lockspace": resource.lockspace,
            "resource": resource.name,
            "path": resource.path,
            "mode": "shared" if resource.shared else "exclusive",
            "autocreate": resource.autocreate,
            "state": resource.state.value,
            "since": resource.since,
            "slow_mount": resource.slow_mount,
            "device": None if claim is None else claim.identity[0],
            "inode": None if claim is None else claim.identity[1],
            "fd": None if claim is None else claim.fd,
            "owners": [self._owner(pid, count, connections) for pid, count in resource.owners.items()],
        }

    def _owner(self, pid: int, holdings: int, connections: dict[int, int]) -> dict[str, Any]:
        process = self._owners.get(pid)
        return {
            "pid": pid,
            "holdings": holdings,
            "name": process and process.details.name,
            "uuid": process and str(process.details.uuid),
            "id": process and process.details.id,
            "process": "unknown" if process is None or process.pidfd is None else "alive",
            "fencing_since": process and process.fencing_since,
            "connection": connections.get(pid),
        }

    def _release(self, call: Frame, question: dict[str, Any]) -> bytes:
        """End the holdings of owners that are gone or unknown, on one resource."""
        lockspace, name = question.get("lockspace"), question.get("resource")
        if not isinstance(lockspace, str) or not isinstance(name, str):
            return error_reply(call, invalid_argument("lockspace and resource are needed"))
        resource = next((r for r in self._table if (r.lockspace, r.name) == (lockspace, name)), None)
        if resource is None:
            return error_reply(call, operation_invalid(f"{name} is not locked"))
        owners = list(resource.owners)
        for pid in owners:
            process = self._owners.get(pid)
            if process is not None and process.pidfd is not None:
                words = owner_words(pid, process)
                return error_reply(call, operation_invalid(f"{name} is held by {words}, which is alive here"))
        for pid in owners:
            self._locker.release_by_force(resource, pid)
        return encode_reply(call, encode_document({"released": owners}))
