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
    with salvage.part(f"the number of clients of {server.name}"):
        server.next_client_id = max(entry.get("next_client_id", 1), *server.sessions, 0)


def _adopt_client(server: Server, reactor: Reactor, owners: Owners, entry: dict[str, Any]) -> None:
    fd = entry["sock"]["fd"]
    os.set_inheritable(fd, False)
    connection = socket.socket(fileno=fd)
    connection.setblocking(False)
    session = Session(server, reactor, connection, entry["id"])
    session.connected_at = entry["conn_time"]
    private = entry["privateData"]
    session.restricted = private["restricted"]
    if private["ownerId"]:
        details = Owner(
            UUID(private["ownerUUID"]), private["ownerName"], private["ownerId"], private["ownerPid"]
        )
        owners.register(session, details)
    server.adopt(session)
    extra = entry.get("lockd", {})
    session.reader.resume(b64decode(extra.get("input", "")), extra.get("missing", 0))
    call = _whole_frame(b64decode(extra["call"])) if extra.get("call") else None
    session.resume(call, b64decode(extra.get("output", "")))


def _whole_frame(data: bytes) -> Frame | None:
    reader = FrameReader(_WHOLE)
    reader.feed(data)
    return reader.next_frame()
