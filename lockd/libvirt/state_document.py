"""The state document: virtlockd writes it before it replaces itself, and reads it when it starts again.

It is a JSON object. virtlockd ignores keys that it does not know. It cannot read a document if one of its own
keys is missing. The format was captured from libvirt 9.0.0; 11.3.0 has the same keys and types.
"""

from collections.abc import Iterable
from typing import Any, Final

VIRTLOCKD_SIZE_MAX: Final = 10 * 1024 * 1024
"""Maximum size of a document that virtlockd reads, in bytes."""

NO_UUID: Final = "00000000-0000-0000-0000-000000000000"
"""Stands for the UUID of an owner that is missing or unknown."""

_NO_KEEPALIVE: Final = 4294967295
"""-1 as an unsigned number: keepalive messages are disabled."""

_SHARED: Final = 1
_AUTOCREATE: Final = 2


def socket_entry(fd: int, *, is_client: bool, unlink: bool = False) -> dict[str, Any]:
    """Return the entry of a socket.

    :param fd: the descriptor of the socket.
    :param is_client: whether it is the connection of a client; if not, it is a listening socket.
    :param unlink: whether the daemon has created the socket's file, and removes it when it ends.
    :returns: the entry.
    """
    return {"fd": fd, "errfd": -1, "pid": 0, "isClient": is_client, "unlinkUNIX": unlink}


def service_entry(sockets: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry of a service. A service is the listening sockets of a server.

    :param sockets: the entries of the sockets.
    :returns: the entry.
    """
    return {"auth": 0, "readonly": False, "nrequests_client_max": 1, "socks": list(sockets)}


def server_entry(
    limits: dict[str, int], next_client_id: int, services: list[dict[str, Any]], clients: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the entry of a server.

    :param limits: the limits of the server; the keys are those of the document.
    :param next_client_id: the number that the next client gets.
    :param services: the entries of its services.
    :param clients: the entries of its clients.
    :returns: the entry.
    """
    return {
        **limits,
        "keepaliveInterval": _NO_KEEPALIVE,
        "keepaliveCount": 0,
        "next_client_id": next_client_id,
        "services": services,
        "clients": clients,
    }


def client_entry(
    number: int, connected_at: int, fd: int, *, restricted: bool, owner: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the entry of a client.

    :param number: the server's number for the client.
    :param connected_at: when the client connected, in seconds since the epoch.
    :param fd: the descriptor of the connection.
    :param restricted: whether the client has given up all further lock calls.
    :param owner: the entry of the owner that the client has registered; None if it has not registered one.
    :returns: the entry.
    """
    return {
        "id": number,
        "auth": 0,
        "auth_pending": False,
        "readonly": False,
        "nrequests_max": 1,
        "conn_time": connected_at,
        "sock": socket_entry(fd, is_client=True),
        "privateData": {"restricted": restricted, **(owner or owner_entry(0, 0, "", NO_UUID))},
    }


def owner_entry(pid: int, number: int, name: str, uuid: str) -> dict[str, Any]:
    """Return the entry of a client's owner.

    :param pid: the pid of the owner.
    :param number: libvirt's number of the guest. To virtlockd, 0 means that the client has not registered.
    :param name: the name of the guest.
    :param uuid: the UUID of the guest.
    :returns: the entry.
    """
    return {"ownerPid": pid, "ownerId": number, "ownerName": name, "ownerUUID": uuid}


def resource_entry(
    name: str, path: str, fd: int, owners: list[int], *, shared: bool, autocreate: bool
) -> dict[str, Any]:
    """Return the entry of a resource that is held.

    :param name: the name of the resource in its lockspace.
    :param path: the locked file.
    :param fd: the descriptor that was used to lock the file.
    :param owners: the pids of the owners, each once for every holding.
    :param shared: whether the lock is shared.
    :param autocreate: whether the file was created for the lock, and is removed with it.
    :returns: the entry.
    """
    return {
        "name": name,
        "path": path,
        "fd": fd,
        "lockHeld": True,
        "flags": _SHARED * shared | _AUTOCREATE * autocreate,
        "owners": owners,
    }


def is_shared(resource: dict[str, Any]) -> bool:
    """Return whether the lock of a resource is shared.

    :param resource: the entry of the resource.
    :returns: whether it is shared.
    """
    return bool(resource["flags"] & _SHARED)


def is_autocreate(resource: dict[str, Any]) -> bool:
    """Return whether the file of a resource was created for its lock.

    :param resource: the entry of the resource.
    :returns: whether it was.
    """
    return bool(resource["flags"] & _AUTOCREATE)
