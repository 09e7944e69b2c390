"""The status program: ``lockctl`` calls it to look into a running daemon, and to release locks by force."""

import os
from collections.abc import Callable
from functools import partial
from heapq import nsmallest
from itertools import islice
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
from lockd.locks.errors import UnknownLockspace
from lockd.locks.resource import Resource, State
from lockd.locks.table import LockTable
from lockd.wire import status
from lockd.wire.errors import invalid_argument, operation_invalid, resource_busy, rpc_error
from lockd.wire.frames import Frame, encode_reply
from lockd.wire.status import Procedure, decode_document, encode_document

_PAGE_LOCKS: Final = 200
"""How many locks one reply has at most. Such a reply takes about 1 ms of the reactor's time."""

_PAGE_BYTES: Final = 512 * 1024
"""A reply gets no further entry once it may have this many bytes. Lists of ordinary names do not come to it. But a
name may have 64 KiB, and any number of locks and owners may have such names."""

_LOCK_BYTES: Final = 400
_OWNER_BYTES: Final = 250
_SHARE_BYTES: Final = 40
"""About how many bytes of JSON a lock, an owner, and an owner's share in a lock have beside their texts."""

_ESCAPED_BYTES: Final = 6
"""The most bytes that JSON takes for a character of a name: six for a control character."""


_Answer: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]
"""Carries out one call: takes the document of the question, and returns the document of the answer."""


class _Page:
    """The part of a list that one reply carries.

    :param connections: the numbers of the connections that owners made themselves, by the owners' pids.
    :param owners_apart: whether to describe each owner once, apart from the locks.
    :ivar locks: the locks of the page.
    :ivar owners: the owners that are described apart, by their pids.
    """

    def __init__(self, connections: dict[int, int], *, owners_apart: bool) -> None:
        self.connections = connections
        self.locks: list[dict[str, Any]] = []
        self.owners: dict[int, dict[str, Any]] | None = {} if owners_apart else None
        self._bytes = 0

    def count(self, size: int, *texts: str | None) -> None:
        """Count an entry of ``size`` bytes and some texts. Its true size may be less."""
        self._bytes += size + _ESCAPED_BYTES * sum(len(text) for text in texts if text is not None)

    @property
    def is_full(self) -> bool:
        """Whether the reply gets no further entry."""
        return self._bytes >= _PAGE_BYTES


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
            Procedure.LOCKSPACES: self._lockspaces,
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
            # For a lockctl that is older than LOCKSPACES.
            "lockspaces": self._lockspaces({})["lockspaces"],
            "counters": self._counters.describe(),
        }

    def _lockspaces(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return one page of the lockspaces, without the first ``after`` ones. See ``_locks`` for ``next``."""
        match question:
            case {"after": int(after)} if after >= 0:
                pass
            case {"after": _}:
                raise Refused(invalid_argument("after has to be a number"))
            case _:
                after = 0
        page = _Page({}, owners_apart=False)
        listed: list[str] = []
        # A lockspace is never removed, so the places stay the same.
        for path in islice(self._table.lockspaces, after, None):
            if page.is_full:
                return {"lockspaces": listed, "next": after + len(listed)}
            page.count(0, path)
            listed.append(path)
        return {"lockspaces": listed, "next": None}

    def _locks(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return one page of the locks, in the order of their numbers.

        The page begins after the lock with the number ``after``. If ``after`` is a pair, the page begins with
        that lock, and without as many of its owners as the second number says. ``next`` in the answer is what to
        ask for the next page with, or None if this page is the last one. If ``owners`` is "apart" in the
        question, the answer describes each owner once, in ``owners``, by its key, which ``pid`` is in the locks.
        """
        match question.get("after", 0):
            case int(number):
                begun = 0
            case [int(number), int(begun)] if begun >= 0:
                pass
            case _:
                raise Refused(invalid_argument("after has to be a number, or two"))
        first = number if begun else number + 1
        numbers = nsmallest(
            _PAGE_LOCKS, (resource.number for resource in self._table if resource.number >= first)
        )
        last = numbers[-1] if numbers else 0
        resources = [resource for resource in self._table if first <= resource.number <= last]
        resources.sort(key=lambda resource: resource.number)
        page = _Page(self._connections(), owners_apart=question.get("owners") == "apart")
        following: int | list[int] | None = last if len(numbers) == _PAGE_LOCKS else None
        for resource in resources:
            ended = self._add_lock(page, resource, begun if resource.number == number else 0)
            if ended is not None or page.is_full:
                following = resource.number if ended is None else [resource.number, ended]
                break
        answer: dict[str, Any] = {"locks": page.locks, "next": following}
        return answer if page.owners is None else {**answer, "owners": page.owners}

    def _find(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return a lock. If not all of its owners are listed, ``next`` is what to ask for the others with."""
        match question:
            case {"lockspace": str(lockspace), "resource": str(name)}:
                resource = self._resource(lockspace, name)
            case {"device": int(device), "inode": int(inode)}:
                holder = self._holder_of((device, inode))
                resource = holder if isinstance(holder, Resource) else None
            case _:
                raise Refused(invalid_argument("lockspace and resource, or device and inode are needed"))
        if resource is None:
            return {"lock": None, "next": None}
        begun = question.get("after", 0)
        if not isinstance(begun, int) or begun < 0:
            raise Refused(invalid_argument("after has to be a number"))
        page = _Page(self._connections(), owners_apart=False)
        ended = self._add_lock(page, resource, begun)
        return {"lock": page.locks[0], "next": ended}

    def _resource(self, lockspace: str, name: str) -> Resource | None:
        try:
            return self._table.find(lockspace, name)
        except UnknownLockspace:
            return None

    def _connections(self) -> dict[int, int]:
        """Return the numbers of the connections that owners made themselves, by the owners' keys.

        An owner keeps its locks as long as this connection is open.
        """
        sessions = self._lock_server.sessions.values()
        return {
            session.owner.key: session.id
            for session in sessions
            if session.owner is not None and session.owner.pid == session.peer_pid
        }

    def _add_lock(self, page: _Page, resource: Resource, begun: int) -> int | None:
        """Add a lock with its owners to a page, without its first ``begun`` owners.

        Return None if the rest of its owners had room on the page, otherwise how many owners are listed by now.
        """
        lock = self._lock(resource)
        page.locks.append(lock)
        page.count(
            _LOCK_BYTES, resource.lockspace, resource.name, resource.path, resource.queue, resource.doubt
        )
        owners: list[dict[str, Any]] = []
        lock["owners"] = owners
        for place, (key, holdings) in enumerate(islice(resource.owners.items(), begun, None), begun):
            # Each page has one owner at least, so that the list comes to an end.
            if owners and page.is_full:
                return place
            share = {"pid": key, "holdings": holdings}
            page.count(_SHARE_BYTES)
            if page.owners is None:
                share |= self._owner(page, key)
            elif key not in page.owners:
                page.owners[key] = self._owner(page, key)
            owners.append(share)
        return None

    def _lock(self, resource: Resource) -> dict[str, Any]:
        """Return all facts about a lock but its owners."""
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
        }

    def _owner(self, page: _Page, key: int) -> dict[str, Any]:
        process = self._owners.get(key)
        page.count(_OWNER_BYTES, None if process is None else process.details.name)
        return {
            # The pid on this host, which kill(1) can use; None if it is not known.
            "pid": process.pid if process is not None else key if key > 0 else None,
            # The pid that the client has registered, which is one of its own pid namespace.
            "number": self._owners.number(key),
            "name": process and process.details.name,
            "uuid": process and str(process.details.uuid),
            "id": process and process.details.id,
            "process": "unknown" if process is None or process.pidfd is None else "alive",
            "fencing_since": process and process.fencing_since,
            "connection": page.connections.get(key),
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
        for key in owners:
            self._check_gone(resource, key)
        numbers = [self._owners.number(key) for key in owners]
        for key in owners:
            events.released_by_force(resource, key, self._owners.get(key))
            self._locker.release_by_force(resource, key)
        return {"released": numbers}

    def _check_gone(self, resource: Resource, key: int) -> None:
        """Check that an owner has ended: an owner that can still write keeps its locks (Invariant 2).

        :raises Refused: the owner may be alive.
        """
        if not self._owners.may_live(key):
            return
        process = self._owners.get(key)
        words = owner_name(key, process)
        if process is not None and process.pid is None:
            connected = "a client is connected for it"
            why = f"which may be alive, as {connected if process.sessions else 'a process of this host has its pid'}"
        else:
            why = "which is alive on this host"
        raise Refused(operation_invalid(f"{resource.name} is held by {words}, {why}"))
