"""The state of a daemon, as a JSON object.

It has the keys of virtlockd's state. What virtlockd does not know is under additional keys ``lockd``.
"""

import os
from base64 import b64encode
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockd.daemon.daemon import Daemon
from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.owners import Owners
from lockd.daemon.server import LOCK_SERVER, Server
from lockd.daemon.session import Session
from lockd.libvirt import state_document
from lockd.libvirt.lock_daemons import LockDaemon
from lockd.linux.processes import own_identity
from lockd.locks.resource import DIRECT, Resource, State
from lockd.wire.frames import encode_reply
from lockd.wire.lock import Owner, Procedure


def describe(daemon: Daemon) -> dict[str, Any]:
    """Return the state of a daemon: everything that the next program needs to continue.

    :param daemon: the running daemon.
    :returns: the state, as a JSON object.
    """
    lockspaces: dict[str, list[dict[str, Any]]] = {path: [] for path in daemon.table.lockspaces}
    lockspaces[DIRECT] = []
    releasing = []
    for resource in daemon.table:
        if resource.state is State.HELD:
            lockspaces[resource.lockspace].append(_resource(resource, daemon.owners))
        elif resource.state is State.RELEASING and resource.hold is not None:
            releasing.append({"lockspace": resource.lockspace, **_resource(resource, daemon.owners)})
    return {
        "daemon": {
            "servers": {server.name: _server(server, daemon.sockets_made) for server in daemon.servers}
        },
        "defaultLockspace": {"resources": lockspaces.pop(DIRECT)},
        "lockspaces": [{"directory": path, "resources": resources} for path, resources in lockspaces.items()],
        "magic": str(os.getpid()),
        "lockd": {
            "process": own_identity(),
            "timeout": daemon.lifetime.timeout,
            "idle_seconds": daemon.lifetime.idle_seconds,
            "pid_file": daemon.pid_file,
            "log": daemon.log.describe(),
            "counters": daemon.counters.describe(),
            "releasing": releasing,
            "by_key": True,
            "owners": [_owner(process) for process in daemon.owners],
        },
    }


def descriptors(daemon: Daemon, successor: LockDaemon) -> list[int]:
    """Return all descriptors that the next program inherits.

    Descriptors that virtlockd does not know are closed. Otherwise they would stay open, and an admin client
    would wait for ever. The only lock on them is that on the pid file, which virtlockd takes again at once
    (Invariant 1).

    :param daemon: the running daemon.
    :param successor: which daemon the next program is.
    :returns: the descriptors.
    """
    inherited = [
        *(listener.fileno() for server in daemon.servers for listener in server.listeners),
        *(session.fd for session in daemon.lock_server.sessions.values()),
    ]
    if successor is LockDaemon.VIRTLOCKD:
        # virtlockd opens its pid file and its log file itself.
        return inherited + daemon.inodes.descriptors(but=[daemon.pid_file, *daemon.log.describe()["files"]])
    return [
        *inherited,
        *(session.fd for session in daemon.admin_server.sessions.values()),
        *(process.pidfd for process in daemon.owners if process.pidfd is not None),
        *daemon.inodes.descriptors(),
    ]


def unfinished(daemon: Daemon) -> str | None:
    """Return what is under way that virtlockd could not continue.

    :param daemon: the running daemon.
    :returns: a description, which completes the sentence "virtlockd cannot take over now, as ..."; None if
        there is nothing.
    """
    for resource in daemon.table:
        if resource.state is not State.HELD:
            return f"{resource.path} is {resource.state.value}"
        if not resource.engine.holds(resource):
            return f"the lost lock of {resource.path} is being taken again"
    for process in daemon.owners:
        if process.fencing_since is not None:
            return f"{process.describe()} is being killed"
    for session in daemon.lock_server.sessions.values():
        if session.waiting_call is not None or session.unsent or session.reader.unfinished != (b"", 0):
            return f"{session.describe()}, has sent half a call, or not read a reply"
    return None


def _server(server: Server, sockets_made: list[Path]) -> dict[str, Any]:
    limits = asdict(server.limits)
    clients = [_client(session) for session in server.sessions.values()]
    # A listening socket is removed by what created it: the daemon or systemd.
    sockets = [
        state_document.socket_entry(
            listener.fileno(), is_client=False, unlink=Path(listener.getsockname()) in sockets_made
        )
        for listener in server.listeners
    ]
    services = [state_document.service_entry(sockets)]
    # virtlockd cannot take over clients of the admin server: they are under the key that it does not know.
    known, unknown = (clients, []) if server.name == LOCK_SERVER else ([], clients)
    return {
        **state_document.server_entry(limits, server.next_client_id, services, known),
        "lockd": {"clients": unknown, "configured": asdict(server.configured)},
    }


def _client(session: Session) -> dict[str, Any]:
    unfinished, missing = session.reader.unfinished
    output = session.unsent
    call = session.waiting_call
    if call is not None and call.procedure == Procedure.RELEASE_RESOURCE:
        # The resource is in the state under ``releasing``, and the next program releases it. Only the reply
        # is left.
        output += encode_reply(call)
        call = None
    owner = session.owner
    entry = state_document.client_entry(
        session.id,
        session.connected_at,
        session.fd,
        restricted=session.restricted,
        owner=None if owner is None else _client_owner(owner.details, session.registered_pid),
    )
    return {
        **entry,
        "lockd": {
            "call": call and b64encode(call.shortened).decode(),
            "input": b64encode(unfinished).decode(),
            "missing": missing,
            "output": b64encode(output).decode(),
            # The key of an owner that has ended may belong to another one.
            "owner": None if owner is None or owner.ended else owner.key,
            "owner_ended": owner is not None and owner.ended,
            "connected": session.connected,
        },
    }


def _client_owner(owner: Owner, registered_pid: int) -> dict[str, Any]:
    return state_document.owner_entry(registered_pid, owner.id, owner.name, str(owner.uuid))


def _resource(resource: Resource, owners: Owners) -> dict[str, Any]:
    facts = resource.engine.describe(resource)
    # virtlockd stores holdings by the pids that clients have registered, whatever pid namespaces these are of.
    numbers = [owners.number(key) for key in resource.holdings]
    entry = state_document.resource_entry(
        resource.name,
        resource.path,
        facts.pop("fd"),
        numbers,
        shared=resource.shared,
        autocreate=resource.autocreate,
    )
    return {**entry, "lockd": {"since": resource.since, "owners": resource.holdings, **facts}}


def _owner(process: OwnerProcess) -> dict[str, Any]:
    return {
        "key": process.key,
        "pid": process.details.pid,
        "host_pid": process.pid,
        "place": process.place,
        "was_dead": process.was_dead,
        "is_certain": process.is_certain,
        "id": process.details.id,
        "name": process.details.name,
        "uuid": str(process.details.uuid),
        "pidfd": process.pidfd,
        "fencing_since": process.fencing_since,
    }
