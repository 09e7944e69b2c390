"""A blocking stream to a daemon's socket. It sends calls and waits for their replies."""

import math
import os
import socket
from pathlib import Path
from time import monotonic
from typing import Final, Self

from lockd.client.errors import ClientError, ConnectionLost, NoAnswer, PermissionDenied, Unavailable
from lockd.client.protocol import Call, Protocol
from lockd.linux.peers import credentials_of

RECEIVE_BYTES: Final = 65536
"""How many bytes to receive at most in one call of recv(2)."""

_ROOT: Final = 0


def connect_error(path: Path, error: OSError) -> ClientError:
    """Convert the error of a failed connect(2) to an exception with a message for the user.

    :param path: the daemon's socket.
    :param error: the error.
    :returns: the exception.
    """
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            return Unavailable(f"{path}: no lock daemon runs here; start it (systemctl start virtlockd)")
        case PermissionError():
            return PermissionDenied(f"{path}: permission denied; the daemon serves its own user only")
    return Unavailable(f"{path}: {error.strerror or error}")


def check_listener(connection: socket.socket, path: Path) -> None:
    """Check whose daemon listens on a socket: it has to be root's, or that of the user of this process.

    Another user who can make a socket at this path could grant any lock without holding it. This is so for every path,
    whoever has named it: no daemon serves another user than its own.

    :param connection: the socket, connected. Its peer's credentials are those of the process that has called listen(2):
        the daemon, or systemd that has made the socket for it (unix(7)).
    :param path: the path that it is connected to, for the message.
    :raises PermissionDenied: somebody else listens.
    """
    uid = credentials_of(connection).uid
    if uid not in {_ROOT, os.geteuid()}:
        raise PermissionDenied(
            f"{path}: user {uid} listens here, who is neither root nor this user, and is not believed; "
            "remove the socket, and start the daemon"
        )


def lost(error: BaseException | None) -> ConnectionLost:
    """Convert the error of a failed send(2) or recv(2) to an exception with a message for the user.

    :param error: the error.
    :returns: the exception.
    """
    if isinstance(error, TimeoutError):
        return NoAnswer("the daemon does not answer")
    return ConnectionLost(f"the connection to the daemon broke: {getattr(error, 'strerror', error)}")


class BlockingStream:
    """A connected socket, and the protocol that is spoken on it.

    :param connection: the socket. It is closed with this object.
    :param protocol: encodes the calls and decodes the replies.
    :param path: the path that the socket is connected to.
    :ivar path: see the parameter.
    """

    def __init__(self, connection: socket.socket, protocol: Protocol, path: Path) -> None:
        self._socket = connection
        self._protocol = protocol
        self._deadline = math.inf
        self._unsent = b""
        self.path = path

    @classmethod
    def connect(cls, path: Path, protocol: Protocol, timeout: float | None = None) -> Self:
        """Connect to a socket.

        :param path: the socket.
        :param protocol: encodes the calls and decodes the replies.
        :param timeout: how many seconds to wait for each reply; None for no limit.
        :returns: the stream.
        :raises ClientError: no daemon listens on the socket, this user may not connect, or ``check_listener`` fails.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            check_listener(connection, path)
        except OSError as error:
            connection.close()
            raise connect_error(path, error) from None
        except BaseException:
            connection.close()
            raise
        return cls(connection, protocol, path)

    def wait_no_longer_than(self, seconds: float) -> None:
        """Limit the time for all that follows, in place of the time for each reply.

        :param seconds: from now on.
        """
        self._deadline = monotonic() + seconds

    @property
    def answered(self) -> bool:
        """Whether every call has been answered."""
        return self._protocol.answered

    def call(self, call: Call) -> bytes:
        """Send a call, and wait for the reply.

        :param call: the call.
        :returns: the payload of the reply.
        :raises Refused: the daemon has answered with an error.
        :raises NoAnswer: the daemon has not answered in time.
        :raises ConnectionLost: the connection has ended.
        """
        self._unsent += self._protocol.send(call)
        self.wait()
        return self._protocol.result()

    def wait(self) -> None:
        """Wait for the replies to all calls that were sent.

        :raises NoAnswer: the replies do not arrive in time. What is left of a call is sent with the next one.
        :raises ConnectionLost: the connection has ended.
        """
        try:
            while self._unsent:
                self._set_timeout()
                sent = self._socket.send(self._unsent)
                self._unsent = self._unsent[sent:]
            while not self._protocol.answered:
                self._set_timeout()
                self._protocol.receive(self._socket.recv(RECEIVE_BYTES))
        except OSError as error:
            raise lost(error) from None

    def _set_timeout(self) -> None:
        if self._deadline < math.inf:
            left = self._deadline - monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def detach(self) -> int:
        """Return the socket's descriptor, and leave it open. The caller has to close it."""
        return self._socket.detach()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
