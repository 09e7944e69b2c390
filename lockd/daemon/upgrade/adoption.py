"""Adoption: going on as the daemon that this process was before, lockd or virtlockd.

Whatever can be kept is kept; what cannot is logged by name.
"""

import errno
import fcntl
import logging
import os
import socket
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import trio

from lockd.daemon import events
from lockd.daemon.daemon import Daemon
from lockd.daemon.failure import Failure
from lockd.daemon.interest import interest
from lockd.daemon.owner_process import OwnerProcess, open_pidfd
from lockd.daemon.server import ADMIN_SERVER, LOCK_SERVER, Server
from lockd.daemon.session import Session
from lockd.daemon.start import pidfile
from lockd.daemon.start.sockets import Listeners, listen
from lockd.daemon.upgrade.state import NO_UUID
from lockd.locks import posix
from lockd.locks.errors import Busy, NotHeld
from lockd.locks.inodes import ABANDONED, ORPHANED, Claimed, Identity, Inodes, identity_of
from lockd.locks.resource import LOST, Resource, State
from lockd.locks.table import DIRECT
from lockd.wire.addresses import Addresses
from lockd.wire.frames import Frame, FrameReader
from lockd.wire.lock import AcquireFlags, Owner

_ABANDONED_SECONDS: Final = 60
"""How long a repeated call has time to go on with the descriptor that the call before it had opened."""

_TOLD_PER_TURN: Final = 50
"""Locks whose paths are looked at, in less than a millisecond, before the clients get their turn."""

_FIRST_DESCRIPTOR: Final = 3
_WHOLE: Final = 1 << 32

_logger = logging.getLogger(__name__)


@contextmanager
def _part(what: str) -> Iterator[None]:
    """Log what goes wrong in the context: it must cost no other part of the state."""
    try:
        yield
    except Exception as error:
        _log_loss(what, error)


def _log_loss(what: str, error: Exception) -> None:
    _logger.error("%s could not be taken over: %s: %s", what, type(error).__name__, error)


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
    with _part(f"the listening socket of {server}"):
        (service,) = state["daemon"]["servers"][server]["services"] or [{"socks": []}]
        if not service["socks"] and server == ADMIN_SERVER:
            return None  # systemd has handed over none
        (entry,) = service["socks"]
        listener = socket.socket(fileno=_inherited(entry["fd"]))
        if entry["unlinkUNIX"]:
            made.append(Path(listener.getsockname()))
        return listener
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
    extra = _dictionary(state, "lockd")
    if isinstance(extra.get("timeout", ""), int | None):
        daemon.timeout = extra["timeout"]
    _adopt_each("lockspace", state.get("lockspaces"), "directory", partial(_adopt_lockspace, daemon))
    direct = {"directory": DIRECT, **_dictionary(state, "defaultLockspace")}
    _adopt_each("lockspace", [direct], "directory", partial(_adopt_lockspace, daemon))
    with _part("the kernel's list of locks"):
        _check_locks(daemon)
    _adopt_each("owner", extra.get("owners"), "pid", partial(_adopt_owner, daemon))
    servers = _dictionary(_dictionary(state, "daemon"), "servers")
    for server in daemon.servers:
        _adopt_server(daemon, server, _dictionary(servers, server.name))
    _watch_over_unknown_owners(daemon)
    for process in list(daemon.owners):
        if process.fencing_since is not None:
            daemon.owners.fence(process)
    _adopt_each("release of", extra.get("releasing"), "path", partial(_finish_release, daemon))
    with _part("the idle time"):
        daemon.was_idle(extra.get("idle_seconds", 0.0))
    with _part("the counters"):
        daemon.counters.adopt(_dictionary(extra, "counters"))
    with _part("the log"):
        # Last: what is locked is claimed now, and a log file that is not can be opened (Invariant 1).
        daemon.log.adopt(_dictionary(extra, "log"))
    _logger.info("took over %d locks and %d clients", len(daemon.table), len(daemon.lock_server.sessions))


def _dictionary(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _adopt_each(what: str, entries: Any, name: str, adopt_entry: Callable[[dict[str, Any]], object]) -> None:
    """Take over each entry of a list; what is wrong with one costs no other."""
    for entry in entries if isinstance(entries, list) else ():
        try:
            adopt_entry(entry)
        except Exception as error:
            _log_loss(f"{what} {entry.get(name) if isinstance(entry, dict) else entry}", error)


# Locks


def _adopt_lockspace(daemon: Daemon, entry: dict[str, Any]) -> None:
    lockspace = entry["directory"]
    daemon.table.add_lockspace(lockspace)
    _adopt_each("the lock on", entry.get("resources"), "path", partial(_adopt_resource, daemon, lockspace))


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
    try:
        claim = daemon.table.adopt(resource, entry["owners"], fd, identity)
    except Busy as error:
        _logger.error(
            "%s: %s; both names keep the lock until all their owners are gone", resource.path, error
        )
        return resource
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
        try:
            resource.check_adopted(held, listed=daemon.mounts.lists_locks(resource.slow_mount))
        except OSError as error:
            resource.doubt = f"the kernel says nothing of the lock: {error.strerror}"


async def tell_of_locks(daemon: Daemon) -> None:
    """Log what was taken over, and which locks are in doubt; while clients are served."""
    for number, resource in enumerate(list(daemon.table)):
        if number % _TOLD_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
        resource.check_path()
        if resource.doubt is not None:
            _logger.error("%s was taken over, but %s", resource.path, resource.doubt)
        elif interest.in_grants and resource.state is State.HELD:
            for pid in resource.owners:
                events.taken_over(resource, pid, daemon.owners.get(pid))


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
    for pid in {pid for resource in daemon.table for pid in resource.holdings}:
        if daemon.owners.get(pid) is None:
            with _part(f"owner {pid}"):
                daemon.owners.adopt(OwnerProcess(Owner(UUID(NO_UUID), "", 0, pid), open_pidfd(pid)))


def _adopt_server(daemon: Daemon, server: Server, entry: dict[str, Any]) -> None:
    extra = _dictionary(entry, "lockd")
    configured = _dictionary(extra, "configured")
    for name in asdict(server.limits):
        # What was configured may have another value by now; what was set at run time stays.
        if isinstance(entry.get(name), int) and entry[name] != configured.get(name):
            setattr(server.limits, name, entry[name])
    for clients in (entry.get("clients"), extra.get("clients")):
        _adopt_each(f"{server.name}'s client", clients, "id", partial(_adopt_client, daemon, server))
    with _part(f"the number of clients of {server.name}"):
        server.next_client_id = max(entry.get("next_client_id", 1), *server.sessions, 0)


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
    await daemon.slow_calls.run("/", _claim_leftovers, daemon.table.inodes, ABANDONED)
    await trio.sleep(_ABANDONED_SECONDS)
    await daemon.slow_calls.run("/", daemon.table.inodes.close_abandoned)


def claim_orphans(inodes: Inodes) -> None:
    """Keep the files that a program before has left open without a state that tells of them; for the start.

    A lock may be on each, so nobody can have it (Invariant 1).
    """
    _claim_leftovers(inodes, ORPHANED)


def _claim_leftovers(inodes: Inodes, holder: object) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        with suppress(OSError):
            if fd < _FIRST_DESCRIPTOR or not os.get_inheritable(fd):
                continue
            target = os.readlink(f"/proc/self/fd/{fd}")
            # Whoever is at the other end of a socket must not wait for ever. Closing one ends no lock.
            if target.startswith("socket:") or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
                os.close(fd)
            elif target.startswith("/"):
                _inherited(fd)
                with suppress(Claimed):
                    inodes.adopt(fd, holder)
