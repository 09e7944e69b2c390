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
    process.was_dead = entry.get("was_dead", False)
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
    stores them too.

    :param owners: the owners of the daemon.
    """

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._known: dict[int, list[OwnerProcess]] = {}

    def add(self, number: int, owner: OwnerProcess) -> None:
        """Add the owner that a client has registered.

        :param number: the pid that the client has registered.
        :param owner: the owner.
        """
        self._known.setdefault(number, []).append(owner)

    def replace(self, table: LockTable) -> None:
        """Store the holdings of the adopted locks by the keys of their owners.

        If several processes have registered one number, any of them may hold a lock: each one gets a holding, and
        none is killed, as it may hold nothing.

        :param table: the lock table, with all adopted locks. Its holdings are stored by numbers.
        """
        numbers = {number for resource in table for number in resource.holdings}
        replacements: dict[int, set[int]] = {}
        dead = []
        for number in numbers:
            owners = {owner.key: owner for owner in self._known.get(number, ()) if not owner.ended}
            if not owners:
                owner = self._unconnected(number)
                owners = {owner.key: owner}
                if number in self._known:
                    dead.append(owner)
            elif len(owners) > 1:
                for owner in owners.values():
                    owner.is_certain = False
            replacements[number] = set(owners)
        table.replace_owners(replacements)
        for owner in dead:
            self._owners.release_dead(owner)

    def _unconnected(self, number: int) -> OwnerProcess:
        """Return an owner that no living client is registered for.

        virtlockd has its details only if a client is connected for it. It may write to a disk nevertheless. If
        clients in containers use the daemon, or if there is no such process on this host, the owner may be in a
        container: then nobody is watched.
        """
        details = Owner(UUID(NO_UUID), "", 0, number)
        pidfd = None
        is_here = number not in self._known and all(owner.place is None for owner in self._owners)
        known = self._owners.get(number) if is_here else None
        if known is not None:
            return known
        if is_here:
            with salvage.part(f"owner {number}"):
                pidfd = open_pidfd(number)
        if pidfd is not None:
            owner = OwnerProcess(number, details, number, pidfd)
        else:
            owner = OwnerProcess(self._owners.new_key(), details, None, None, Place(UNKNOWN, number))
        self._owners.adopt(owner)
        return owner


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
                owners.adopt(owner)


def adopt_server(
    server: Server, reactor: Reactor, owners: Owners, numbers: Numbers, entry: dict[str, Any]
) -> None:
    """Take over the limits and the clients of a server.

    :param server: the server.
    :param reactor: serves the clients.
    :param owners: the owners of the daemon; owners of the clients are registered with them.
    :param numbers: gets to know which owners the clients have registered.
    :param entry: the entry of the server in the state.
    """
    extra = salvage.dictionary(entry, "lockd")
    configured = salvage.dictionary(extra, "configured")
    for name in asdict(server.limits):
        # A limit that was set at run time is kept. Any other limit comes from the configuration, which may
        # have changed.
        if isinstance(entry.get(name), int) and entry[name] != configured.get(name):
            setattr(server.limits, name, entry[name])
    adopt = partial(_adopt_client, server, reactor, owners, numbers)
    for clients in (entry.get("clients"), extra.get("clients")):
        salvage.each(f"{server.name}'s client", clients, "id", adopt)
    told = entry.get("next_client_id")
    ids = [told if isinstance(told, int) else 1, *(number + 1 for number in server.sessions)]
    server.next_client_id = max(1, *ids)


def _adopt_client(
    server: Server, reactor: Reactor, owners: Owners, numbers: Numbers, entry: dict[str, Any]
) -> None:
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
        session = Session(server, reactor, connection, number)
    except BaseException:
        connection.close()
        raise
    server.adopt(session)
    try:
        session.connected_at = int(entry["conn_time"])
        session.connected = extra.get("connected")
        session.restricted = bool(private["restricted"])
        if owner is not None:
            _register(owners, session, owner, extra)
        if owner is not None and session.owner is not None:
            numbers.add(owner.pid, session.owner)
        session.reader.resume(unread, extra.get("missing", 0))
        session.resume(call, unsent)
    except BaseException:
        session.abandon()
        raise


def _register(owners: Owners, session: Session, details: Owner, extra: dict[str, Any]) -> None:
    """Have a client acquire and release for the owner that it had.

    :param extra: what virtlockd does not tell: the owner's key, and whether the owner has ended.
    """
    if extra.get("owner_ended"):
        # Its pid may be that of another process now, for which this client must not act.
        owners.attach(session, ended_owner(details))
        return
    key = extra.get("owner")
    known = None if key is None else owners.get(key)
    if known is not None:
        owners.attach(session, known)
        return
    # The client may have ended: then nobody can know in which pid namespace it was. It stays unregistered.
    with suppress(Unidentified):
        owners.register(session, details)


def _owner_of(private: dict[str, Any]) -> Owner | None:
    if not private["ownerId"]:
        return None
    return Owner(UUID(private["ownerUUID"]), private["ownerName"], private["ownerId"], private["ownerPid"])


def _whole_frame(data: bytes) -> Frame | None:
    reader = FrameReader(_WHOLE)
    reader.feed(data)
    return reader.next_frame()
