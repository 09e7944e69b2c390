"""Adoption of owners, servers and clients from the state of the program before."""

import os
import socket
from base64 import b64decode
from dataclasses import asdict
from functools import partial
from typing import Any, Final
from uuid import UUID

from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.owners import Owners
from lockd.daemon.reactor import Reactor
from lockd.daemon.server import Server
from lockd.daemon.session import Session
from lockd.daemon.upgrade import salvage
from lockd.libvirt.state_document import NO_UUID
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
    process = OwnerProcess(details, pidfd)
    process.fencing_since = entry["fencing_since"]
    owners.adopt(process)


def watch_over_unknown_owners(owners: Owners, table: LockTable) -> None:
    """Watch the owners of which the state has only the pids.

    The state of virtlockd has the details of an owner only if a client is connected for it. Any other owner
    holds locks too, so it may write to a disk.

    :param owners: the owners of the daemon; those that are missing are added to them.
    :param table: the lock table, with all adopted locks.
    """
    for pid in {pid for resource in table for pid in resource.holdings}:
        if owners.get(pid) is None:
            with salvage.part(f"owner {pid}"):
                owners.adopt(OwnerProcess(Owner(UUID(NO_UUID), "", 0, pid), open_pidfd(pid)))


def adopt_server(server: Server, reactor: Reactor, owners: Owners, entry: dict[str, Any]) -> None:
    """Take over the limits and the clients of a server.

    :param server: the server.
    :param reactor: serves the clients.
    :param owners: the owners of the daemon; owners of the clients are registered with them.
    :param entry: the entry of the server in the state.
    """
    extra = salvage.dictionary(entry, "lockd")
    configured = salvage.dictionary(extra, "configured")
    for name in asdict(server.limits):
        # A limit that was set at run time is kept. Any other limit comes from the configuration, which may
        # have changed.
        if isinstance(entry.get(name), int) and entry[name] != configured.get(name):
            setattr(server.limits, name, entry[name])
    adopt = partial(_adopt_client, server, reactor, owners)
    for clients in (entry.get("clients"), extra.get("clients")):
        salvage.each(f"{server.name}'s client", clients, "id", adopt)
    told = entry.get("next_client_id")
    numbers = [told if isinstance(told, int) else 1, *(number + 1 for number in server.sessions)]
    server.next_client_id = max(1, *numbers)


def _adopt_client(server: Server, reactor: Reactor, owners: Owners, entry: dict[str, Any]) -> None:
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
        session.restricted = bool(private["restricted"])
        if owner is not None:
            owners.register(session, owner)
        session.reader.resume(unread, extra.get("missing", 0))
        session.resume(call, unsent)
    except BaseException:
        session.abandon()
        raise


def _owner_of(private: dict[str, Any]) -> Owner | None:
    if not private["ownerId"]:
        return None
    return Owner(UUID(private["ownerUUID"]), private["ownerName"], private["ownerId"], private["ownerPid"])


def _whole_frame(data: bytes) -> Frame | None:
    reader = FrameReader(_WHOLE)
    reader.feed(data)
    return reader.next_frame()
