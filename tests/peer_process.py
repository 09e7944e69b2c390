"""A separate process that owns connections, as a guest does: daemons identify it with SO_PEERCRED."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_CONNECT = """
import socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
connections = []
for path in sys.argv[2:]:
    connections.append(socket.socket(socket.AF_UNIX))
    connections[-1].connect(path)
socket.send_fds(control, [b"+"], [connection.fileno() for connection in connections])
control.recv(1)
"""


class PeerProcess:
    """A process that connects to each of the sockets and passes its connections to the test.

    `end` closes the connections, after the process has died.
    """

    def __init__(self, sockets: Sequence[Path]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-IS", "-c", _CONNECT, str(theirs.fileno()), *map(str, sockets)],
                pass_fds=[theirs.fileno()],
            )
        self.pid = self._process.pid
        _, descriptors, _, _ = socket.recv_fds(self._control, 1, len(sockets))
        self.connections = [socket.socket(fileno=descriptor) for descriptor in descriptors]

    def has_ended(self) -> bool:
        """Return whether the process is dead."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Kill the process, and then close its connections."""
        self._process.kill()
        self._process.wait()
        for connection in (self._control, *self.connections):
            connection.close()
