"""The state of a daemon as a document: virtlockd's own, and under ``lockd`` what virtlockd does not know.

virtlockd ignores keys that it does not know, and cannot read a document that lacks one of its own.
"""

import os
from base64 import b64encode
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.server import LOCK_SERVER, Server
from lockd.daemon.session import Session
from lockd.daemon.upgrade.state_file import own_process
from lockd.locks.resource import Resource, State
from lockd.locks.table import DIRECT
from lockd.wire.frames import encode_reply
from lockd.wire.lock import AcquireFlags, Procedure

if TYPE_CHECKING:
    from lockd.daemon.daemon import Daemon


class Successor(Enum):
    """The daemon that goes on; the value is in what it says to ``--version``."""

    LOCKD = b"(lockd)"
    VIRTLOCKD = b"(libvirt)"


NO_UUID: Final = "00000000-0000-0000-0000-000000000000"
NO_KEEPALIVE: Final = 4294967295


def describe(daemon: "Daemon") -> dict[str, Any]:
    """Return all that the next program has to know to go on as this one."""
    lockspaces: dict[str, list[dict[str, Any]]] = {path: [] for path in daemon.table.lockspaces}
    lockspaces[DIRECT] = []
    releasing = []
    for resource in daemon.table:
        if resource.state is State.HELD:
            lockspaces[resource.lockspace].append(_resource(resource))
        elif resource.state is State.RELEASING and resource.claim is not None:
            releasing.append({"lockspace": resource.lockspace, **_resource(resource)})
    return {
        "daemon": {
            "servers": {server.name: _server(server, daemon.sockets_made) for server in daemon.servers}
        },
        "defaultLockspace": {"resources": lockspaces.pop(DIRECT)},
        "lockspaces": [{"directory": path, "resources": resources} for path, resources in lockspaces.items()],
        "magic": str(os.getpid()),
        "lockd": {
            "process": own_process(),
            "timeout": daemon.timeout,
            "idle_seconds": daemon.idle_seconds,
            "pid_file": daemon.pid_file,
            "log": daemon.log.describe(),
            "counters": daemon.counters.describe(),
            "releasing": releasing,
            "owners": [_owner(process) for process in daemon.owners],
        },
    }


def descriptors(daemon: "Daemon", successor: Successor) -> list[int]:
    """Return every descriptor that the next program goes on with.

    What virtlockd does not know is closed: it would stay open, and an admin client wait for ever. Invariant 1: no
    lock is on it but that on the pid file, which virtlockd takes again at once.
    """
    inherited = [
        *(listener.fileno() for server in daemon.servers for listener in server.listeners),
        *(session.fd for session in daemon.lock_server.sessions.values()),
    ]
    if successor is Successor.VIRTLOCKD:
        # It opens its pid file and its log itself.
        return inherited + daemon.table.inodes.descriptors(
            but=[daemon.pid_file, *daemon.log.describe()["files"]]
        )
    return [
        *inherited,
        *(session.fd for session in daemon.admin_server.sessions.values()),
        *(process.pidfd for process in daemon.owners if process.pidfd is not None),
        *daemon.table.inodes.descriptors(),
    ]


def unfinished(daemon: "Daemon") -> str | None:
    """Return what is under way that virtlockd could not go on with, or None."""
    for resource in daemon.table:
        if resource.state is not State.HELD:
            return f"{resource.path} is {resource.state.value}"
    for process in daemon.owners:
        if process.fencing_since is not None:
            return f"{process.describe()} is being killed"
    for session in daemon.lock_server.sessions.values():
        if session.waiting_call is not None or session.unsent or session.reader.unfinished != (b"", 0):
            name = session.owner.describe() if session.owner else f"pid {session.peer_pid}"
            return f"client {session.id}, {name}, has sent half a call, or not read a reply"
    return None


def _server(server: Server, sockets_made: list[Path]) -> dict[str, Any]:
    limits = server.limits
    clients = [_client(session) for session in server.sessions.values()]
    return {
        "min_workers": limits.min_workers,
        "max_workers": limits.max_workers,
        "priority_workers": limits.priority_workers,
        "max_clients": limits.max_clients,
        "max_anonymous_clients": limits.max_anonymous_clients,
        "keepaliveInterval": NO_KEEPALIVE,
        "keepaliveCount": 0,
        "next_client_id": server.next_client_id,
        "services": [
            {
                "auth": 0,
                "readonly": False,
                "nrequests_client_max": 1,
                "socks": [
                    _socket(listener.fileno(), made=Path(listener.getsockname()) in sockets_made)
                    for listener in server.listeners
                ],
            }
        ],
        # virtlockd cannot take over clients of the admin server.
        "clients": clients if server.name == LOCK_SERVER else [],
        "lockd": {
            "clients": [] if server.name == LOCK_SERVER else clients,
            "configured": asdict(server.configured),
        },
    }


def _socket(fd: int, *, is_client: bool = False, made: bool = False) -> dict[str, Any]:
    # Who made a listening socket removes it: the daemon, or systemd.
    return {"fd": fd, "errfd": -1, "pid": 0, "isClient": is_client, "unlinkUNIX": made}


def _client(session: Session) -> dict[str, Any]:
    owner = session.owner
    unfinished, missing = session.reader.unfinished
    output = session.unsent
    call = session.waiting_call
    if call is not None and call.procedure == Procedure.RELEASE_RESOURCE:
        # The resource is in the state as one that is being released; nothing else remains to be done.
        output += encode_reply(call)
        call = None
    return {
        "id": session.id,
        "auth": 0,
        "auth_pending": False,
        "readonly": False,
        "nrequests_max": 1,
        "conn_time": session.connected_at,
        "sock": _socket(session.fd, is_client=True),
        "privateData": {
            "restricted": session.restricted,
            "ownerPid": owner.pid if owner else 0,
            # virtlockd takes a client with id 0 for one that has not registered.
            "ownerId": owner.details.id if owner else 0,
            "ownerName": owner.details.name if owner else "",
            "ownerUUID": str(owner.details.uuid) if owner else NO_UUID,
        },
        "lockd": {
            "call": call and b64encode(call.shortened).decode(),
            "input": b64encode(unfinished).decode(),
            "missing": missing,
            "output": b64encode(output).decode(),
        },
    }


def _resource(resource: Resource) -> dict[str, Any]:
    claim = resource.claim
    if claim is None:
        raise ValueError(f"{resource.path} is not held")
    flags = (AcquireFlags.SHARED if resource.shared else 0) | (
        AcquireFlags.AUTOCREATE if resource.autocreate else 0
    )
    return {
        "name": resource.name,
        "path": resource.path,
        "fd": claim.fd,
        "lockHeld": True,
        "flags": int(flags),
        "owners": resource.holdings,
        "lockd": {
            "since": resource.since,
            "slow_mount": resource.slow_mount,
            "identity": list(claim.identity),
            "parked": claim.parked or [],
        },
    }


def _owner(process: OwnerProcess) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "id": process.details.id,
        "name": process.details.name,
        "uuid": str(process.details.uuid),
        "pidfd": process.pidfd,
        "fencing_since": process.fencing_since,
    }
