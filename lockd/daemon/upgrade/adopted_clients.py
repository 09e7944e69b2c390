"""Adoption of owners, servers and clients from the state of the program before."""

import os
import socket
from base64 import b64decode
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Final
from uuid import UUID

from lockd.daemon.identification import Unidentified
from lockd.daemon.owner_process import OwnerProcess, Place
from lockd.daemon.owners import Owners, ended_owner
from lockd.daemon.reactor import Reactor
from lockd.daemon.server import Server
from lockd.daemon.session import Session
from lockd.daemon.upgrade import salvage
from lockd.libvirt.state_document import NO_UUID
from lockd.linux.pid_namespaces import UNKNOWN, PidNamespace
from lockd.linux.processes import open_pidfd
from lockd.locks.table import LockTable
from lockd.wire.frames import Frame, FrameReader
from lockd.wire.lock import Owner

_WHOLE: Final = 1 << 32
"""More bytes than any frame has, so that the reader keeps the whole frame."""


def adopt_owner(owners: Owners, entry: dict[str, Any]) -> None:
    """Take over an owner, and watch its process.

    :param owners: the owners of the daemon; the owner is added to them.
    :param entry: the entry of the owner in the state. Its pidfd is closed when the owner is forgotten.
    :raises OSError: the pidfd is not open, or cannot be watched.
    :raises LookupError: the entry is incomplete.
    """
    details = Owner(UUID(entry["uuid"]), entry["name"], entry["id"], entry["pid"])
    pidfd = entry["pidfd"]
    if pidfd is not None:
        os.set_inheritable(pidfd, False)
    # An earlier lockd has no keys, and takes each number for a pid of its own pid namespace.
    key = entry.get("key", entry["pid"])
    process = OwnerProcess(key, details, entry.get("host_pid", key), pidfd, _place(entry.get("place")))
    # It watches the process that has the number when a client registers it: without a pidfd, there was none.
    process.was_dead = entry.get("was_dead", "key" not in entry and pidfd is None)
    process.is_certain = entry.get("is_certain", True)
    process.fencing_since = entry["fencing_since"]
    owners.adopt(process)


def _place(entry: Any) -> Place | None:
    if entry is None:
        return None
    namespace, number = entry
    return Place(PidNamespace(*namespace), number)


class Numbers:
    """Which owners the numbers stand for by which virtlockd stores holdings.

    They are the pids that clients have registered, and each is one of its client's pid namespace. An earlier lockd
    stores them too. It takes each for a pid of its own pid namespace, and may watch a stranger that has it there.

    At first, the holdings are stored by keys that no owner has. So the end of a process takes no lock with it before
    it is known whose lock it is.

    :param owners: the owners of the daemon: those that an earlier lockd has told of, if any.
    :param table: the lock table, with all adopted locks. Its holdings are stored by numbers.
    """

    def __init__(self, owners: Owners, table: LockTable) -> None:
        self._owners = owners
        self._table = table
        self._keys = {number: owners.new_key() for resource in table for number in resource.holdings}
        table.replace_owners({number: {key} for number, key in self._keys.items()})
        self._told = {owner.details.pid: owner for owner in owners}
        self._not_seen = {number for number, owner in self._told.items() if owner.pidfd is None}
        self._registered: dict[int, list[OwnerProcess]] = {}

    def register(self, session: Session, details: Owner) -> None:
        """Register the owner that a client has registered before.

        :param session: the client.
        :param details: what it has said about the owner.
        :raises OSError: see ``Owners.register``.
        :raises Unidentified: likewise.
        """
        number = details.pid
        try:
            self._owners.register(session, details)
        except BaseException:
            if session.peer_pid != number:
                # Nobody knows of which pid namespace the number is.
                self._registered.setdefault(number, [])
            raise
        owner = session.owner
        if owner is not None and self._is_successor(owner, session):
            owner = ended_owner(details)
            self._owners.attach(session, owner, number)
        if owner is not None:
            self._registered.setdefault(number, []).append(owner)

    def _is_successor(self, owner: OwnerProcess, session: Session) -> bool:
        """Return whether a process has the pid of the one that was registered, which has ended."""
        told = self._told.get(owner.details.pid)
        was_seen = told is not None and told.ended and owner.details.pid not in self._not_seen
        return was_seen and not _is_elsewhere(owner) and owner.pid != session.peer_pid

    def replace(self) -> None:
        """Store the holdings of the adopted locks by the keys of their owners.

        If several processes have registered one number, any of them may hold a lock: each one gets a holding, and
        none is killed, as it may hold nothing.
        """
        has_containers = any(map(_is_elsewhere, self._owners))
        replacements: dict[int, set[int]] = {}
        dead = []
        for number, key in self._keys.items():
            registered = self._registered.get(number)
            living = {owner.key: owner for owner in registered or () if not owner.ended}
            told = self._told.get(number)
            if told is not None and told.fencing_since is not None and not told.ended:
                # Only what has connected with its own pid is fenced, so it is of this host.
                living[told.key] = told
            if living:
                several = len(living) > 1 or any(owner.ended for owner in registered or ())
                for owner in living.values():
                    # A process of this host that had the number later than the first owner may hold nothing.
                    if several or (number in self._not_seen and not _is_elsewhere(owner)):
                        owner.is_certain = False
            else:
                owner = self._unconnected(number, may_be_here=registered is None and not has_containers)
                living = {owner.key: owner}
                if registered:
                    dead.append(owner)
            replacements[key] = set(living)
        self._table.replace_owners(replacements)
        for owner in dead:
            self._owners.release_dead(owner)

    def _unconnected(self, number: int, *, may_be_here: bool) -> OwnerProcess:
        """Return an owner that no living client is registered for.

        virtlockd has its details only if a client is connected for it. It may write to a disk nevertheless. If
        clients in containers use the daemon, or if there is no such process on this host, the owner may be in a
        container: then nobody is watched.

        :param may_be_here: whether a process of this host that has the number is the owner.
        """
        told = self._told.get(number)
        details = Owner(UUID(NO_UUID), "", 0, number)
        if may_be_here and told is not None and told.pidfd is not None:
            return told
        if may_be_here and told is None:
            with salvage.part(f"owner {number}"):
                pidfd = open_pidfd(number)
                if pidfd is not None:
                    owner = OwnerProcess(number, details, number, pidfd)
                    # The owner may have ended, and its pid be another one's.
                    owner.is_certain = False
                    self._owners.adopt(owner)
                    return owner
        if told is not None and told.details.pid == number:
            details = told.details
        owner = OwnerProcess(self._owners.new_key(), details, None, None, Place(UNKNOWN, number))
        owner.was_dead = number in self._not_seen
        self._owners.adopt(owner)
        return owner


def _is_elsewhere(owner: OwnerProcess) -> bool:
    """Return whether an owner is known to be in another pid namespace; it need not be known in which."""
    return owner.place is not None or owner.pid != owner.details.pid


def watch_over_unknown_owners(owners: Owners, table: LockTable) -> None:
    """Watch the owners whose entries in the state could not be taken over.

    :param owners: the owners of the daemon; those that are missing are added to them.
    :param table: the lock table, with all adopted locks.
    """
    for key in {key for resource in table for key in resource.holdings}:
        if owners.get(key) is None:
            with salvage.part(f"owner {key}"):
                details = Owner(UUID(NO_UUID), "", 0, max(key, 0))
                pidfd = open_pidfd(key)
                owner = OwnerProcess(key, details, key if key > 0 else None, pidfd)
                owner.was_dead = key > 0 and pidfd is None
                # The owner may have ended, and its pid be another one's.
                owner.is_certain = False
                owners.adopt(owner)


class Clients:
    """Takes over the servers' limits and clients.

    :param reactor: serves the clients.
    :param owners: the owners of the daemon; owners of the clients are registered with them.
    :param numbers: registers the owners of the clients, if holdings are stored by numbers; otherwise None.
    """

    def __init__(self, reactor: Reactor, owners: Owners, numbers: Numbers | None) -> None:
        self._reactor = reactor
        self._owners = owners
        self._numbers = numbers
        self._unfinished: list[tuple[Session, Frame | None, bytes]] = []

    def adopt(self, server: Server, entry: dict[str, Any]) -> None:
        """Take over the limits and the clients of a server. Their calls wait for ``resume``.

        :param server: the server.
        :param entry: the entry of the server in the state.
        """
        extra = salvage.dictionary(entry, "lockd")
        configured = salvage.dictionary(extra, "configured")
        for name in asdict(server.limits):
            # A limit that was set at run time is kept. Any other limit comes from the configuration, which may
            # have changed.
            if isinstance(entry.get(name), int) and entry[name] != configured.get(name):
                setattr(server.limits, name, entry[name])
        adopt = partial(self._adopt_client, server)
        for clients in (entry.get("clients"), extra.get("clients")):
            salvage.each(f"{server.name}'s client", clients, "id", adopt)
        told = entry.get("next_client_id")
        ids = [told if isinstance(told, int) else 1, *(number + 1 for number in server.sessions)]
        server.next_client_id = max(1, *ids)

    def resume(self) -> None:
        """Continue the calls of all clients. All locks and owners have to be taken over before.

        A call may acquire or release: its owner must be the one that the locks are stored by.
        """
        for session, call, unsent in self._unfinished:
            with salvage.part(f"the calls of client {session.id}"):
                try:
                    session.resume(call, unsent)
                except BaseException:
                    session.abandon()
                    raise
        self._unfinished.clear()

    def _adopt_client(self, server: Server, entry: dict[str, Any]) -> None:
        """Take over a client. If that fails, its connection is closed; its owner is not fenced, and keeps its locks."""
        fd = entry["sock"]["fd"]
        os.set_inheritable(fd, False)
        connection = socket.socket(fileno=fd)
        try:
            connection.setblocking(False)
            private, extra = entry["privateData"], entry.get("lockd", {})
            owner = _owner_of(private)
            call = _whole_frame(b64decode(extra["call"])) if extra.get("call") else None
            unread, unsent = (b64decode(extra.get(key, "")) for key in ("input", "output"))
            number = entry["id"]
            if not isinstance(number, int) or number in server.sessions:
                raise ValueError("its number is none, or another client has it")
            session = Session(server, self._reactor, connection, number)
        except BaseException:
            connection.close()
            raise
        server.adopt(session)
        try:
            session.connected_at = int(entry["conn_time"])
            session.connected = extra.get("connected")
            session.restricted = bool(private["restricted"])
            session.reader.resume(unread, extra.get("missing", 0))
            if owner is not None:
                self._register(session, owner, extra)
        except BaseException:
            session.abandon()
            raise
        self._unfinished.append((session, call, unsent))

    def _register(self, session: Session, details: Owner, extra: dict[str, Any]) -> None:
        """Have a client acquire and release for the owner that it had.

        :param extra: what virtlockd does not tell: the owner's key, and whether the owner has ended.
        """
        if extra.get("owner_ended"):
            # Its pid may be that of another process now, for which this client must not act.
            self._owners.attach(session, ended_owner(details), details.pid)
            return
        key = extra.get("owner")
        known = None if key is None else self._owners.get(key)
        if known is None and isinstance(key, int) and key < 0:
            # Its entry could not be taken over. Its locks are stored by this key, which tells of no process.
            known = OwnerProcess(key, details, None, None, Place(UNKNOWN, details.pid))
            self._owners.adopt(known)
        if known is not None:
            self._owners.attach(session, known, details.pid)
            return
        # The client may have ended: then nobody can know in which pid namespace it was. It stays unregistered.
        with suppress(Unidentified):
            (self._numbers or self._owners).register(session, details)


def _owner_of(private: dict[str, Any]) -> Owner | None:
    if not private["ownerId"]:
        return None
    return Owner(UUID(private["ownerUUID"]), private["ownerName"], private["ownerId"], private["ownerPid"])


def _whole_frame(data: bytes) -> Frame | None:
    reader = FrameReader(_WHOLE)
    reader.feed(data)
    return reader.next_frame()
