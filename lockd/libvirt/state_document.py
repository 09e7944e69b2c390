"""The state document: what virtlockd writes before it replaces itself, and reads when it starts again.

It is a JSON object. virtlockd ignores keys that it does not know, and cannot read a document that lacks one of its
own. The form was captured from libvirt 9.0.0; 11.3.0 has the same keys and types.
"""

from collections.abc import Iterable
from typing import Any, Final

VIRTLOCKD_SIZE_MAX: Final = 10 * 1024 * 1024
"""Bytes of the largest document that virtlockd reads."""

NO_UUID: Final = "00000000-0000-0000-0000-000000000000"
_NO_KEEPALIVE: Final = 4294967295

_SHARED: Final = 1
_AUTOCREATE: Final = 2


def socket_entry(fd: int, *, is_client: bool, unlink: bool = False) -> dict[str, Any]:
    """Return the entry of a socket.

    :param fd: its descriptor.
    :param is_client: whether it is a client's connection, rather than a listening socket.
    :param unlink: whether the daemon made the socket's file, and removes it at its end.
    :returns: the entry.
    """
    return {"fd": fd, "errfd": -1, "pid": 0, "isClient": is_client, "unlinkUNIX": unlink}


def service_entry(sockets: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry of a service: the listening sockets of a server.

    :param sockets: the entries of the sockets.
    :returns: the entry.
    """
    return {"auth": 0, "readonly": False, "nrequests_client_max": 1, "socks": list(sockets)}


def server_entry(
    limits: dict[str, int], next_client_id: int, services: list[dict[str, Any]], clients: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the entry of a server.

    :param limits: its limits, by the document's names for them.
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

    :param number: the server's number for it.
    :param connected_at: when it connected, in seconds since the epoch.
    :param fd: the descriptor of its connection.
    :param restricted: whether it has given up all further lock calls.
    :param owner: the entry of the owner that it has registered, if it has.
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

    :param pid: the owner's process.
    :param number: libvirt's number for the guest. virtlockd takes 0 for a client that has not registered.
    :param name: the name of the guest.
    :param uuid: the UUID of the guest.
    :returns: the entry.
    """
    return {"ownerPid": pid, "ownerId": number, "ownerName": name, "ownerUUID": uuid}


def resource_entry(
    name: str, path: str, fd: int, owners: list[int], *, shared: bool, autocreate: bool
) -> dict[str, Any]:
    """Return the entry of a held resource.

    :param name: its name in its lockspace.
    :param path: the locked file.
    :param fd: the descriptor that the lock was taken by.
    :param owners: the pids of the owners, each once for every holding.
    :param shared: whether the lock is shared.
    :param autocreate: whether the file was made for the lock, and is removed with it.
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
    """Return whether the lock of a resource's entry is shared.

    :param resource: the entry.
    :returns: whether it is.
    """
    return bool(resource["flags"] & _SHARED)


def is_autocreate(resource: dict[str, Any]) -> bool:
    """Return whether the file of a resource's entry was made for its lock.

    :param resource: the entry.
    :returns: whether it was.
    """
    return bool(resource["flags"] & _AUTOCREATE)
