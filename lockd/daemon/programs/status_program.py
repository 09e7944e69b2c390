"""The status program: ``lockctl`` calls it to look into a running daemon, and to release locks by force."""

import os
from collections.abc import Callable
from functools import partial
from heapq import nsmallest
from time import time
from typing import Any, Final, TypeAlias

from lockd import __version__
from lockd.daemon import events
from lockd.daemon.counters import Counters
from lockd.daemon.locker import Locker
from lockd.daemon.owner_process import owner_name
from lockd.daemon.owners import Owners
from lockd.daemon.programs.refused import Refused
from lockd.daemon.server import FunctionHandler, ProgramKey, Server, error_reply
from lockd.daemon.session import Session
from lockd.linux.file_identity import Identity
from lockd.linux.processes import was_running
from lockd.locks.errors import UnknownLockspace
from lockd.locks.resource import Resource, State
from lockd.locks.table import LockTable
from lockd.wire import status
from lockd.wire.errors import invalid_argument, operation_invalid, resource_busy, rpc_error
from lockd.wire.frames import Frame, encode_reply
from lockd.wire.status import Procedure, decode_document, encode_document

_PAGE_LOCKS: Final = 200
"""How many locks one reply has at most. Such a reply takes about 1 ms of the reactor's time."""


_Answer: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Carries out one call: takes the document of the question, and returns the document of the answer."""


class StatusProgram:
    """Answers the calls of the status program.

    Only the user of the daemon can call it, through the admin socket.

    :param lock_server: the server for lock clients.
    :param table: the lock table.
    :param locker: releases locks.
    :param owners: the registered owners.
    :param counters: the counters of the daemon.
    :param holder_of: returns the holder of the claim on an inode (``Claim.holder``), or None if it is not
        claimed.
    :param pid_file: the descriptor of the locked pid file, or None if there is none. It stays the caller's.
    :ivar key: the number and the version of the program.
    :ivar handlers: the handlers of its procedures, by the procedures' numbers.
    """

    key: Final[ProgramKey] = (status.PROGRAM, status.VERSION)

    def __init__(
        self,
        lock_server: Server,
        table: LockTable,
        locker: Locker,
        owners: Owners,
        counters: Counters,
        holder_of: Callable[[Identity], object],
        pid_file: int | None,
    ) -> None:
        self._lock_server = lock_server
        self._table = table
        self._locker = locker
        self._owners = owners
        self._counters = counters
        self._holder_of = holder_of
        self._pid_file = pid_file
        self._started = time()
        procedures: dict[int, _Answer] = {
            Procedure.LOCKS: self._locks,
            Procedure.DAEMON: self._about,
            Procedure.RELEASE: self._release,
            Procedure.FIND: self._find,
        }
        self.handlers = {
            number: FunctionHandler(partial(self._answer, procedure))
            for number, procedure in procedures.items()
        }

    def _answer(self, procedure: _Answer, _session: Session, call: Frame) -> bytes:
        try:
            document = procedure(decode_document(call.payload))
        except ValueError:
            return error_reply(call, rpc_error("Unable to decode message payload"))
        except Refused as refusal:
            return error_reply(call, refusal.reply)
        return encode_reply(call, encode_document(document))

    def _about(self, _question: dict[str, Any]) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "pid_file": self._pid_file,
            "started": self._started,
            "clients": len(self._lock_server.sessions),
            "max_clients": self._lock_server.limits.max_clients,
            "locks": len(self._table),
            "lockspaces": self._table.lockspaces,
            "counters": self._counters.describe(),
        }

    def _locks(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return one page of the locks, in the order of their numbers.

        The page begins after the lock with the number ``after``. ``next`` in the answer is the number with
        which to ask for the next page, or None if this page is the last one.
        """
        after = question.get("after", 0)
        if not isinstance(after, int):
            raise Refused(invalid_argument("after has to be a number"))
        page = nsmallest(
            _PAGE_LOCKS, (resource.number for resource in self._table if resource.number > after)
        )
        last = page[-1] if page else 0
        resources = [resource for resource in self._table if after < resource.number <= last]
        resources.sort(key=lambda resource: resource.number)
        connections = self._connections()
        return {
            "locks": [self._lock(resource, connections) for resource in resources],
            "next": last if len(page) == _PAGE_LOCKS else None,
        }

    def _find(self, question: dict[str, Any]) -> dict[str, Any]:
        match question:
            case {"lockspace": str(lockspace), "resource": str(name)}:
                resource = self._resource(lockspace, name)
            case {"device": int(device), "inode": int(inode)}:
                holder = self._holder_of((device, inode))
                resource = holder if isinstance(holder, Resource) else None
            case _:
                raise Refused(invalid_argument("lockspace and resource, or device and inode are needed"))
        return {"lock": None if resource is None else self._lock(resource, self._connections())}

    def _resource(self, lockspace: str, name: str) -> Resource | None:
        try:
            return self._table.find(lockspace, name)
        except UnknownLockspace:
            return None

    def _connections(self) -> dict[int, int]:
        """Return the numbers of the connections that owners made themselves, by the owners' pids.

        An owner keeps its locks as long as this connection is open.
        """
        sessions = self._lock_server.sessions.values()
        return {
            session.peer_pid: session.id
            for session in sessions
            if session.owner is not None and session.owner.pid == session.peer_pid
        }

    def _lock(self, resource: Resource, connections: dict[int, int]) -> dict[str, Any]:
        facts = {} if resource.hold is None else resource.engine.describe(resource)
        device, inode = facts.get("identity", (None, None))
        return {
            "number": resource.number,
            "lockspace": resource.lockspace,
            "resource": resource.name,
            "path": resource.path,
            "mode": "shared" if resource.shared else "exclusive",
            "autocreate": resource.autocreate,
            "state": resource.state.value,
            "since": resource.since,
            "slow_mount": resource.queue,
            "listed": resource.engine.is_listed(resource),
            "device": device,
            "inode": inode,
            "fd": facts.get("fd"),
            "doubt": resource.doubt,
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

    def _release(self, question: dict[str, Any]) -> dict[str, Any]:
        """Release a lock whose owners have all ended.

        :raises Refused: the resource is not held, or one of its owners may be alive.
        """
        match question:
            case {"lockspace": str(lockspace), "resource": str(name)}:
                resource = self._resource(lockspace, name)
            case _:
                raise Refused(invalid_argument("lockspace and resource are needed"))
        if resource is None:
            raise Refused(resource_busy(f"Lockspace resource '{name}' is not locked"))
        if resource.state is not State.HELD:
            raise Refused(operation_invalid(f"{name} is {resource.state.value} just now"))
        owners = list(resource.owners)
        for pid in owners:
            self._check_gone(resource, pid)
        for pid in owners:
            events.released_by_force(resource, pid, self._owners.get(pid))
            self._locker.release_by_force(resource, pid)
        return {"released": owners}

    def _check_gone(self, resource: Resource, pid: int) -> None:
        """Check that an owner has ended: an owner that can still write keeps its locks (Invariant 2).

        :raises Refused: the owner may be alive.
        """
        process = self._owners.get(pid)
        watched = process is not None and process.pidfd is not None
        if watched or was_running(pid, resource.since):
            words = owner_name(pid, process)
            raise Refused(
                operation_invalid(f"{resource.name} is held by {words}, which is alive on this host")
            )
