"""Adoption: going on as the daemon that this process was before, lockd or virtlockd.

Whatever can be kept is kept; what cannot is logged by name.
"""

import fcntl
import logging
import os
import socket
from base64 import b64decode
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import trio

from lockd.daemon import events
from lockd.daemon.daemon import Daemon
from lockd.daemon.failure import Failure
from lockd.daemon.owner_process import OwnerProcess, open_pidfd
from lockd.daemon.server import Server
from lockd.daemon.session import Session
from lockd.daemon.sockets import Listeners
from lockd.daemon.state import NO_UUID
from lockd.locks import posix
from lockd.locks.errors import Busy
from lockd.locks.inodes import ABANDONED, Identity
from lockd.locks.resource import Resource
from lockd.locks.table import DIRECT
from lockd.wire.frames import Frame, FrameReader
from lockd.wire.lock import AcquireFlags, Owner

_ABANDONED_SECONDS: Final = 60
"""How long a repeated call has time to go on with the descriptor that the call before it had opened."""

_FIRST_DESCRIPTOR: Final = 3
_WHOLE: Final = 1 << 32

_logger = logging.getLogger(__name__)


def adopt_listeners(state: dict[str, Any]) -> Listeners:
    """Return the listening sockets of the state.

    :raises Failure: there is none for lock calls.
    """
    servers = state["daemon"]["servers"]
    sockets = {name: _listening_sockets(server) for name, server in servers.items()}
    if not sockets.get("virtlockd"):
        raise Failure("the state of the daemon before names no listening socket")
    made = [Path(listener.getsockname()) for name in sockets for listener in sockets[name]]
    admin = sockets.get("admin")
    return Listeners(sockets["virtlockd"][0], admin[0] if admin else None, made)


def adopt_pid_file(state: dict[str, Any]) -> int | None:
    """Return the descriptor of the locked pid file; None where the state does not tell of it."""
    fd = state.get("lockd", {}).get("pid_file")
    try:
        return None if fd is None else _inherited(fd)
    except OSError:
        return None


def _listening_sockets(server: dict[str, Any]) -> list[socket.socket]:
    return [
        socket.socket(fileno=_inherited(entry["fd"]))
        for service in server["services"]
        for entry in service["socks"]
    ]


def adopt(daemon: Daemon, state: dict[str, Any]) -> None:
    """Take over all that the state tells of: locks first, then owners, then clients."""
    extra = state.get("lockd", {})
    daemon.timeout = extra.get("timeout", daemon.timeout)
    for space in state.get("lockspaces", []):
        daemon.table.add_lockspace(space["directory"])
        _adopt_resources(daemon, space["directory"], space["resources"])
    _adopt_resources(daemon, DIRECT, state["defaultLockspace"]["resources"])
    _adopt_owners(daemon, extra.get("owners", []))
    _check_locks(daemon)
    for server in daemon.servers:
        _adopt_server(daemon, server, state["daemon"]["servers"].get(server.name, {}))
    for process in list(daemon.owners):
        if process.fencing_since is not None:
            daemon.owners.fence(process)
    _finish_releases(daemon, extra.get("releasing", []))
    # Last: what is locked is claimed now, and a log file that is not can be opened (Invariant 1).
    daemon.log.adopt(extra.get("log", {}))
    _logger.info("took over %d locks and %d clients", len(daemon.table), len(daemon.lock_server.sessions))


# Locks


def _adopt_resources(daemon: Daemon, lockspace: str, entries: Iterable[dict[str, Any]]) -> None:
    for entry in entries:
        try:
            _adopt_resource(daemon, lockspace, entry)
        except Busy as error:
            _logger.error(
                "%s: %s; both names keep the lock until all their owners are gone", entry["path"], error
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            _logger.error("the lock on %s could not be taken over: %s", entry.get("path"), error)


def _adopt_resource(daemon: Daemon, lockspace: str, entry: dict[str, Any]) -> Resource:
    fd = _inherited(entry["fd"])
    resource = Resource(
        lockspace,
        entry["name"],
        entry["path"],
        shared=bool(entry["flags"] & AcquireFlags.SHARED),
        autocreate=bool(entry["flags"] & AcquireFlags.AUTOCREATE),
    )
    extra = entry.get("lockd", {})
    resource.since = extra.get("since", resource.since)
    identity: Identity | None = tuple(extra["identity"]) if "identity" in extra else None
    resource.slow_mount = extra["slow_mount"] if extra else daemon.mounts.slow_mount(f"{resource.path}/")
    claim = daemon.table.adopt(resource, entry["owners"], fd, identity)
    for parked in extra.get("parked", ()):
        with suppress(OSError):
            daemon.table.inodes.park(_inherited(parked), claim)
    return resource


def _check_locks(daemon: Daemon) -> None:
    held = posix.held_locks()
    for resource in daemon.table:
        resource.check_adopted(held, listed=daemon.mounts.lists_locks(resource.slow_mount))
        if resource.doubt is not None:
            _logger.error("%s was taken over, but %s", resource.path, resource.doubt)
        elif events.enabled():
            for pid in resource.owners:
                events.taken_over(resource, pid, daemon.owners.get(pid))


def _finish_releases(daemon: Daemon, entries: Iterable[dict[str, Any]]) -> None:
    """End the locks whose release was under way."""
    for entry in entries:
        with suppress(OSError, Busy):
            resource = _adopt_resource(daemon, entry["lockspace"], entry)
            for owner in list(resource.owners):
                daemon.locker.release_by_force(resource, owner)


# Owners and clients


def _adopt_owners(daemon: Daemon, entries: Iterable[dict[str, Any]]) -> None:
    for entry in entries:
        try:
            details = Owner(UUID(entry["uuid"]), entry["name"], entry["id"], entry["pid"])
            pidfd = None if entry["pidfd"] is None else _inherited(entry["pidfd"])
            process = OwnerProcess(details, pidfd)
            process.fencing_since = entry["fencing_since"]
            daemon.owners.adopt(process)
        except (OSError, KeyError, TypeError, ValueError) as error:
            _logger.error("owner %s could not be taken over: %s", entry.get("pid"), error)
    # virtlockd tells of owners only with their clients; of these all that is known is that they write.
    for pid in {pid for resource in daemon.table for pid in resource.owners}:
        if daemon.owners.get(pid) is None:
            daemon.owners.adopt(OwnerProcess(Owner(UUID(NO_UUID), "", 0, pid), open_pidfd(pid)))


def _adopt_server(daemon: Daemon, server: Server, entry: dict[str, Any]) -> None:
    limits = server.limits
    for name in vars(limits):
        setattr(limits, name, entry.get(name, getattr(limits, name)))
    server.next_client_id = max(server.next_client_id, entry.get("next_client_id", 1))
    for client in [*entry.get("clients", ()), *entry.get("lockd", {}).get("clients", ())]:
        try:
            _adopt_client(daemon, server, client)
        except (OSError, KeyError, TypeError, ValueError) as error:
            _logger.error("client %s of %s could not be taken over: %s", client.get("id"), server.name, error)


def _adopt_client(daemon: Daemon, server: Server, entry: dict[str, Any]) -> None:
    connection = socket.socket(fileno=_inherited(entry["sock"]["fd"]))
    connection.setblocking(False)
    session = Session(server, daemon.reactor, connection, entry["id"])
    session.connected_at = entry["conn_time"]
    private = entry["privateData"]
    session.restricted = private["restricted"]
    if private["ownerId"]:
        details = Owner(
            UUID(private["ownerUUID"]), private["ownerName"], private["ownerId"], private["ownerPid"]
        )
        daemon.owners.register(session, details)
    server.adopt(session)
    extra = entry.get("lockd", {})
    session.reader.resume(b64decode(extra.get("input", "")), extra.get("missing", 0))
    call = _whole_frame(b64decode(extra["call"])) if extra.get("call") else None
    session.resume(call, b64decode(extra.get("output", "")))


def _whole_frame(data: bytes) -> Frame | None:
    reader = FrameReader(_WHOLE)
    reader.feed(data)
    return reader.next_frame()


# Descriptors


def _inherited(fd: int) -> int:
    """Return ``fd``, to be closed by the next exec again unless that one is told of it.

    :raises OSError: it is not open.
    """
    os.set_inheritable(fd, False)
    return fd


async def adopt_leftovers(daemon: Daemon) -> None:
    """Take care of descriptors that the state does not tell of.

    Worker threads may have opened them just before the process was replaced. Closing one unseen could end a
    lock (Invariant 1), and closing it may block.
    """
    await trio.to_thread.run_sync(_claim_leftovers, daemon, abandon_on_cancel=True)
    await trio.sleep(_ABANDONED_SECONDS)
    await trio.to_thread.run_sync(daemon.table.inodes.close_abandoned, abandon_on_cancel=True)


def _claim_leftovers(daemon: Daemon) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        with suppress(OSError):
            if fd < _FIRST_DESCRIPTOR or not os.get_inheritable(fd):
                continue
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("/"):
                continue
            _inherited(fd)
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
                os.close(fd)
                continue
            with suppress(Exception):
                daemon.table.inodes.adopt(fd, ABANDONED)
