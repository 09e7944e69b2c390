"""The process at the other end of a unix socket (unix(7))."""

import errno
import os
import socket
import struct
from typing import Final, NamedTuple

from lockd.linux.processes import open_pidfd, start_ticks

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""

_SO_PEERPIDFD: Final = 77  # <asm-generic/socket.h>, Linux 6.5; Python has no name for it

_ENDED: Final = frozenset((errno.ESRCH, errno.EINVAL, errno.ENODATA))
"""With these, SO_PEERPIDFD fails for a peer that is dead and reaped. Newer kernels return a pidfd for it too."""


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


class Peer(NamedTuple):
    """The process that connected.

    :ivar pidfd: a descriptor of it, to be closed by who has asked for it.
    :ivar is_certain: False if it may be another process that has got the pid since.
    """

    pidfd: int
    is_certain: bool


def open_peer(connection: int, pid: int, connected: int | None) -> Peer | None:
    """Open a pidfd of the process that connected.

    :param connection: the descriptor of a connected unix socket.
    :param pid: the peer's pid, as ``credentials_of`` returned it.
    :param connected: when it connected, as ``ticks_now`` counts; None if that is not known. It is asked for where
        the kernel has no SO_PEERPIDFD: a process with this pid that started later is another one.
    :returns: the process; None if it has ended, or cannot be seen from here.
    :raises OSError: it may well be running, and cannot be watched; see ``open_pidfd``.
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=connection)
    try:
        return Peer(peer.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD), is_certain=True)
    except OSError as error:
        if error.errno in _ENDED:
            return None
        if error.errno != errno.ENOPROTOOPT:
            raise
    finally:
        peer.detach()
    pidfd = open_pidfd(pid)
    if pidfd is None:
        return None
    try:
        is_it = connected is None or _started_by(pid, connected)
    except BaseException:
        os.close(pidfd)
        raise
    if not is_it:
        os.close(pidfd)
        return None
    return Peer(pidfd, is_certain=connected is not None)


def _started_by(pid: int, ticks: int) -> bool:
    try:
        return start_ticks(pid) <= ticks
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has just ended; any other error says nothing about it
