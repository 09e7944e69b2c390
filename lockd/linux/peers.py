"""The process at the other end of a unix socket (unix(7))."""

import os
import socket
import struct
from typing import Final, NamedTuple

from lockd.linux.processes import open_pidfd, started_at

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""

_SO_PEERPIDFD: Final = 77  # <asm-generic/socket.h>, Linux 6.5; Python has no name for it


class Credentials(NamedTuple):
    """Who connected, as the kernel noted it when that happened.

    :ivar pid: the process; 0 where it is in a pid namespace that this process cannot see.
    """

    pid: int
    uid: int
    gid: int


def credentials_of(connection: socket.socket) -> Credentials:
    """Return who connected (SO_PEERCRED).

    :param connection: a connected unix socket.
    :returns: the peer's credentials.
    """
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Credentials(*_CREDENTIALS.unpack(data))


def open_peer_pidfd(connection: int, pid: int, connected_at: float) -> int | None:
    """Open a pidfd of the process that connected.

    :param connection: the descriptor of a connected unix socket.
    :param pid: the peer's pid, as ``credentials_of`` returned it.
    :param connected_at: when it connected, in seconds since the epoch. Where the kernel has no SO_PEERPIDFD, a
        process with this pid that started more than a second later is another one.
    :returns: the descriptor; None where the process has ended, or cannot be seen from here.
    :raises OSError: there are no descriptors or no memory left.
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=connection)
    try:
        return peer.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        pidfd = open_pidfd(pid)
    finally:
        peer.detach()
    if pidfd is not None and started_at(pid) > connected_at + 1:
        os.close(pidfd)
        return None
    return pidfd
