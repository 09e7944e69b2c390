"""Adoption: going on as the daemon that this process was before, lockd or virtlockd.

Whatever can be kept is kept; what cannot is logged by name.
"""

import errno
import fcntl
import logging
import os
import socket
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import trio

from lockd.daemon import events, pidfile
from lockd.daemon.daemon import Daemon
from lockd.daemon.failure import Failure
from lockd.daemon.owner_process import OwnerProcess, open_pidfd
from lockd.daemon.server import ADMIN_SERVER, LOCK_SERVER, Server
from lockd.daemon.session import Session
from lockd.daemon.sockets import Listeners, listen
from lockd.daemon.state import NO_UUID
from lockd.locks import posix
from lockd.locks.errors import Busy, NotHeld
from lockd.locks.inodes import ABANDONED, Identity, identity_of
from lockd.locks.resource import LOST, Resource
from lockd.locks.table import DIRECT
from lockd.wire.addresses import Addresses
from lockd.wire.frames import Frame, FrameReader
from lockd.wire.lock import AcquireFlags, Owner

_ABANDONED_SECONDS: Final = 60
"""How long a repeated call has time to go on with the descriptor that the call before it had opened."""

_FIRST_DESCRIPTOR: Final = 3
_WHOLE: Final = 1 << 32

_logger = logging.getLogger(__name__)


@contextmanager
def _part(what: str, *arguments: object) -> Iterator[None]:
    """Log what goes wrong in the context: it must cost no other part of the state."""
    try:
        yield
    except Exception as error:
        _logger.error(f"{what} could not be taken over: %s: %s", *arguments, type(error).__name__, error)


# Sockets and the pid file


def adopt_listeners(state: dict[str, Any], addresses: Addresses) -> Listeners:
    """Return the listening sockets of the state; new ones where they are gone."""
    made: list[Path] = []
    return Listeners(
        _adopt_listener(state, LOCK_SERVER, addresses.socket, made),
        _adopt_listener(state, ADMIN_SERVER, addresses.admin_socket, made),
        made,
    )


def _adopt_listener(state: dict[str, Any], server: str, path: Path, made: list[Path]) -> socket.socket | None:
    with _part("the listening socket of the %s server", server):
        for service in state["daemon"]["servers"][server]["services"]:
            for entry in service["socks"]:
                listener = socket.socket(fileno=_inherited(entry["fd"]))
                if entry["unlinkUNIX"]:
                    made.append(Path(listener.getsockname()))
                return listener
        return None
    try:
        listener = listen(path)
    except Failure as failure:
        _logger.error("the %s server has no clients but those that it has: %s", server, failure)
        return None
    made.append(path)
    return listener


def adopt_pid_file(state: dict[str, Any], path: Path) -> int | None:
    """Return the descriptor of the locked pid file; None where it cannot be had again."""
    with suppress(OSError, LookupError, TypeError, AttributeError):
        return _inherited(state["lockd"]["pid_file"])
    try:
        return pidfile.acquire(path)
    except Failure as failure:
        _logger.error("the daemon goes on without its pid file: %s", failure)
        return None


def adopt(daemon: Daemon, state: dict[str, Any]) -> None:
    """Take over all that the state tells of: locks first, then owners, then clients."""
    extra = state.get("lockd", {})
    daemon.timeout = extra.get("timeout", daemon.timeout)
    for space in state.get("lockspaces", ()):
        with _part("a lockspace"):
            daemon.table.add_lockspace(space["directory"])
            _adopt_resources(daemon, space["directory"], space["resources"])
    with _part("the direct lockspace"):
        _adopt_resources(daemon, DIRECT, state["defaultLockspace"]["resources"])
    _check_locks(daemon)
    for owner in extra.get("owners", ()):
        with _part("owner %s", owner):
            _adopt_owner(daemon, owner)
    for server in daemon.servers:
        with _part("the clients of the %s server", server.name):
            _adopt_server(daemon, server, state["daemon"]["servers"][server.name])
    _watch_over_unknown_owners(daemon)
    for process in list(daemon.owners):
        if process.fencing_since is not None:
            daemon.owners.fence(process)
    for entry in extra.get("releasing", ()):
        with _part("the release of %s", entry.get("path")):
            _finish_release(daemon, entry)
    daemon.was_idle(extra.get("idle_seconds", 0.0))
    # Last: what is locked is claimed now, and a log file that is not can be opened (Invariant 1).
    daemon.log.adopt(extra.get("log", {}))
    _tell_of_locks(daemon)


# Locks


def _adopt_resources(daemon: Daemon, lockspace: str, entries: Iterable[dict[str, Any]]) -> None:
    for entry in entries:
        with _part("the lock on %s", entry.get("path")):
            try:
                _adopt_resource(daemon, lockspace, entry)
            except Busy as error:
                _logger.error(
                    "%s: %s; both names keep the lock until all their owners are gone", entry["path"], error
                )


def _adopt_resource(daemon: Daemon, lockspace: str, entry: dict[str, Any]) -> Resource:
    resource = Resource(
        lockspace,
        entry["name"],
        entry["path"],
        shared=bool(entry["flags"] & AcquireFlags.SHARED),
        autocreate=bool(entry["flags"] & AcquireFlags.AUTOCREATE),
    )
    extra = entry.get("lockd", {})
    resource.since = extra.get("since", resource.since)
    resource.slow_mount = extra["slow_mount"] if extra else daemon.mounts.slow_mount(f"{resource.path}/")
    identity: Identity | None = tuple(extra["identity"]) if extra else None
    try:
        fd = _inherited(entry["fd"])
        if identity is not None and resource.slow_mount is None and identity_of(os.fstat(fd)) != identity:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    except OSError:
        return _take_again(daemon, resource, entry["owners"])
    claim = daemon.table.adopt(resource, entry["owners"], fd, identity)
    for parked in extra.get("parked", ()):
        with suppress(OSError):
            daemon.table.inodes.park(_inherited(parked), claim)
    return resource


def _take_again(daemon: Daemon, resource: Resource, owners: list[int]) -> Resource:
    """Lock a resource whose descriptor is gone, and with it the lock, if anybody needs it.

    :raises LockError: somebody else has it now.
    """
    if not any(Path(f"/proc/{pid}").exists() for pid in owners):
        raise NotHeld(resource.name)
    resource.take(daemon.table.inodes)
    daemon.table.adopt_taken(resource, owners)
    resource.doubt = LOST
    return resource


def _check_locks(daemon: Daemon) -> None:
    held = posix.held_locks()
    for resource in daemon.table:
        with _part("what the kernel knows of %s", resource.path):
            resource.check_adopted(held, listed=daemon.mounts.lists_locks(resource.slow_mount))


def _tell_of_locks(daemon: Daemon) -> None:
    for resource in daemon.table:
        if resource.doubt is not None:
            _logger.error("%s was taken over, but %s", resource.path, resource.doubt)
        elif events.wanted:
            for pid in resource.owners:
                events.taken_over(resource, pid, daemon.owners.get(pid))
    _logger.info("took over %d locks and %d clients", len(daemon.table), len(daemon.lock_server.sessions))


def _finish_release(daemon: Daemon, entry: dict[str, Any]) -> None:
    """End a lock whose release was under way."""
    resource = _adopt_resource(daemon, entry["lockspace"], entry)
    for owner in list(resource.owners):
        daemon.locker.release_by_force(resource, owner)


# Owners and clients


def _adopt_owner(daemon: Daemon, entry: dict[str, Any]) -> None:
    details = Owner(UUID(entry["uuid"]), entry["name"], entry["id"], entry["pid"])
    pidfd = None if entry["pidfd"] is None else _inherited(entry["pidfd"])
    process = OwnerProcess(details, pidfd)
    process.fencing_since = entry["fencing_since"]
    daemon.owners.adopt(process)


def _watch_over_unknown_owners(daemon: Daemon) -> None:
    """Watch over owners that nobody has told of but as a pid.

    virtlockd tells of owners only with their clients; of others all that is known is that they write.
    """
    for pid in {pid for resource in daemon.table for pid in resource.owners}:
        if daemon.owners.get(pid) is None:
            with _part("owner %d", pid):
                daemon.owners.adopt(OwnerProcess(Owner(UUID(NO_UUID), "", 0, pid), open_pidfd(pid)))


def _adopt_server(daemon: Daemon, server: Server, entry: dict[str, Any]) -> None:
    extra = entry.get("lockd", {})
    configured = extra.get("configured", {})
    for name in vars(server.limits):
        # What was configured may have another value by now; what was set at run time stays.
        if name in entry and entry[name] != configured.get(name):
            setattr(server.limits, name, entry[name])
    server.next_client_id = max(server.next_client_id, entry.get("next_client_id", 1))
    for client in [*entry.get("clients", ()), *extra.get("clients", ())]:
        with _part("client %s of the %s server", client.get("id"), server.name):
            _adopt_client(daemon, server, client)


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
    await daemon.slow_calls.run("/", _claim_leftovers, daemon)
    await trio.sleep(_ABANDONED_SECONDS)
    await daemon.slow_calls.run("/", daemon.table.inodes.close_abandoned)


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
