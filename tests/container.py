"""A container: processes in a pid namespace of their own that use the lock daemon of the host."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from lockd.linux.pid_namespaces import pids_of
from tests.raw_client import RawClient

IN_CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

_FIRST_PROCESS = """
import os, signal, socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while message := control.recv(4096).decode():
    number, path = message.split(" ", 1)
    if number != "0":
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(int(number) - 1))
    if os.fork() == 0:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        socket.send_fds(control, [b"+"], [connection.fileno(), os.pidfd_open(os.getpid())])
        connection.close()
        control.close()
        signal.pause()
"""


class Member:
    """A process in a container that has connected to a lock daemon.

    `number` is its pid in the container, and `pid` that on the host. `client` makes its calls; the connection is
    open in this process only.
    """

    def __init__(self, connection: socket.socket, pidfd: int) -> None:
        self.connection = connection
        self.pidfd = pidfd
        self.pid, self.number = pids_of(pidfd)

    def register(self, number: int | None = None, name: str = "vm1") -> RawClient:
        """Register a pid of the container, by default its own."""
        return RawClient(self.connection, self.number if number is None else number, name=name)

    @property
    def is_dead(self) -> bool:
        return pids_of(self.pidfd) == ()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Container:
    """A pid namespace with a first process, which starts the others."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(15)
        self._members: list[Member] = []
        with theirs:
            self._process = subprocess.Popen(
                [*IN_CONTAINER, sys.executable, "-IS", "-c", _FIRST_PROCESS, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._control.close()
        for member in self._members:
            member.connection.close()
            os.close(member.pidfd)

    def end(self) -> None:
        """End all processes in it."""
        self._process.kill()
        self._process.wait()

    def start(self, daemon_socket: Path, number: int = 0) -> Member:
        """Start a process that connects to a daemon. It gets the given pid in the container, if that is not 0."""
        self._control.send(f"{number} {daemon_socket}".encode())
        _, (connection, pidfd), _, _ = socket.recv_fds(self._control, 16, 2)
        member = Member(socket.socket(fileno=connection), pidfd)
        self._members.append(member)
        assert number in {0, member.number}
        return member
