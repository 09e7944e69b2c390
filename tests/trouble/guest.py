"""A guest as the lock daemon sees it: a process with a connection."""

import os
import select
import signal
import socket
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from lockd.wire import frames, lock
from lockd.wire.errors import ErrorReply

PROGRAM = Path(__file__).with_name("guest_process.py")
TOO_LONG = 10.0  # seconds until a test gives up on a reply or a death

_numbers = count(1)


class Refused(Exception):
    """The daemon answered with an error. The message is the daemon's."""


class Guest:
    """A process with a connection to the daemon at `socket_path`, on which it is registered as an owner.

    `owner_pid` is the pid to register, if not the process's own: libvirtd registers a guest's pid like this.
    `patience` is how long to wait for a reply, in seconds. With `registered` False, the test calls `register`.
    """

    def __init__(
        self,
        socket_path: Path,
        *,
        owner_pid: int | None = None,
        patience: float = TOO_LONG,
        registered: bool = True,
    ) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(TOO_LONG)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-IS", PROGRAM, str(socket_path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )
        self.pid = self.process.pid
        self.pidfd = os.pidfd_open(self.pid)
        _, descriptors, _, _ = socket.recv_fds(self._control, 64, 1)
        self.connection = socket.socket(fileno=descriptors[0])
        self.connection.settimeout(patience)
        self._reader = frames.FrameReader(lock.ARGUMENTS_MAX)
        number = next(_numbers)
        self.name = f"guest{number}"
        self._owner = lock.Owner(uuid4(), self.name, number, owner_pid or self.pid)
        if registered:
            self.register()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.drop_connection()
        self._control.close()
        os.close(self.pidfd)
        self.process.wait()

    # Calls.

    def register(self) -> None:
        """Register the owner. Raises `Refused`."""
        self.send(lock.Procedure.REGISTER, lock.encode_register(self._owner))
        self.reply()

    def acquire(self, path: Path, lockspace: str = "", flags: int = 0) -> None:
        """Acquire a file in the direct lockspace, or a lease by its name. Raises `Refused`."""
        self.send_acquire(path, lockspace, flags)
        self.reply()

    def release(self, path: Path, lockspace: str = "") -> None:
        """Release a resource that `acquire` has acquired. Raises `Refused`."""
        self.send_release(path, lockspace)
        self.reply()

    def create_lockspace(self, path: Path) -> None:
        """Create a directory lockspace. Raises `Refused`."""
        self.send_create_lockspace(path)
        self.reply()

    def send_create(self, path: Path, lockspace: str = "") -> None:
        self.send(lock.Procedure.CREATE_RESOURCE, lock.encode_resource(lockspace, str(path)))

    def send_delete(self, path: Path, lockspace: str = "") -> None:
        self.send(lock.Procedure.DELETE_RESOURCE, lock.encode_resource(lockspace, str(path)))

    def send_acquire(self, path: Path, lockspace: str = "", flags: int = 0) -> None:
        self.send(lock.Procedure.ACQUIRE_RESOURCE, lock.encode_resource(lockspace, str(path), flags))

    def send_release(self, path: Path, lockspace: str = "") -> None:
        self.send(lock.Procedure.RELEASE_RESOURCE, lock.encode_resource(lockspace, str(path)))

    def send_create_lockspace(self, path: Path) -> None:
        self.send(lock.Procedure.CREATE_LOCKSPACE, lock.encode_create_lockspace(str(path)))

    def send(self, procedure: lock.Procedure, payload: bytes) -> None:
        """Send a call; `reply` reads its reply later."""
        self.connection.sendall(
            frames.encode(lock.PROGRAM, lock.VERSION, procedure, frames.FrameType.CALL, 0, payload=payload)
        )

    def reply(self) -> None:
        """Wait for the next reply.

        Raises `Refused`, or ConnectionResetError if the daemon closes the connection.
        """
        while (frame := self._reader.next_frame()) is None:
            data = self.connection.recv(65536)
            if not data:
                raise ConnectionResetError("the daemon closed the connection")
            self._reader.feed(data)
        if frame.status != frames.Status.OK:
            raise Refused(ErrorReply.decode(frame.payload).message)

    def has_reply(self) -> bool:
        """Return whether a reply, or the end of the connection, can be read now."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def drop_connection(self) -> None:
        self.connection.close()

    # The process.

    @property
    def is_dead(self) -> bool:
        """Whether all threads of the process have ended; a zombie is dead, too."""
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def ignore_sigterm(self) -> None:
        self._command("deaf")

    def open(self, path: Path) -> None:
        """Have the process open a file. The open may hang."""
        self._command(f"open {path}")

    def open_in_thread(self, path: Path) -> None:
        """Have a second thread of the process open a file, so that the first one can end in the meantime."""
        self._command(f"open-in-thread {path}")

    def stop(self) -> None:
        """Send SIGSTOP, and wait until the process is stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def become_zombie(self) -> None:
        """Kill the process without reaping it."""
        self.kill()
        self.wait_for_death()

    def kill(self) -> None:
        """Send SIGKILL, unless the process is dead."""
        if not self.is_dead:
            os.kill(self.pid, signal.SIGKILL)

    def wait_for_death(self, seconds: float = TOO_LONG) -> None:
        """Wait until the process has ended, and do not reap it."""
        readable, _, _ = select.select([self.pidfd], [], [], seconds)
        assert readable, f"process {self.pid} did not end within {seconds} s"

    def reap(self) -> int:
        """Wait until the process has ended, and reap it; return the signal that killed it, 0 for none."""
        self.wait_for_death()
        return -self.process.wait()

    def _command(self, command: str) -> None:
        self._control.send(command.encode())
        assert self._control.recv(16) == b"ok"
