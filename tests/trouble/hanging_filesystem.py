"""The test's end of the file system that hangs on demand."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

SERVER = Path(__file__).with_name("fuse_server.py")
TOO_LONG = 10.0  # seconds until a test gives up on an event: far beyond any expected wait


class ServerLock(NamedTuple):
    """A POSIX lock as the file system's server has it: path below the mount point, owner's pid, mode."""

    path: str
    pid: int
    exclusive: bool


class HangingFilesystem:
    """A mounted FUSE file system whose answers the test holds back and lets go.

    Operations are named as in the kernel's protocol, in lower case: "lookup", "getattr", "open", "create",
    "mknod", "read", "unlink", "setlk", "getlk", "flush" (each close), "release" (the last close), or "everything".
    """

    def __init__(self, mount_point: Path, commands: socket.socket) -> None:
        self.path = mount_point
        self._commands = commands

    def hang(self, *operations: str) -> None:
        """From now on leave these operations unanswered."""
        self._command("hang", *operations)

    def release_all(self) -> None:
        """Answer what hangs, in the order of arrival, and everything from now on."""
        self._command("release")

    def wait_for(self, operation: str, count: int = 1) -> None:
        """Return once `count` requests of this operation have reached the server since it was mounted."""
        self._command("wait", operation, count)

    def arrived(self, operation: str) -> int:
        """Number of requests of this operation that have reached the server."""
        number: int = self._command("arrived", operation)
        return number

    def lock_elsewhere(self, path: str) -> None:
        """Lock the first byte of a file, given by its path below the mount point, for another host."""
        self._command("lock_elsewhere", path)

    def locks(self) -> list[ServerLock]:
        """The server's lock table."""
        return [ServerLock(held["path"], held["pid"], held["exclusive"]) for held in self._command("locks")]

    def _command(self, *words: object) -> Any:
        self._commands.send(json.dumps(words).encode())
        return json.loads(self._commands.recv(65536))


@contextmanager
def mounted(mount_point: Path, namespace_of: int | None = None) -> Iterator[HangingFilesystem]:
    """Mount a file system on `mount_point`, which is made where it is missing.

    On leaving, what still hangs fails and the file system is unmounted. Parameters: namespace_of, the process
    in whose mount namespace all this is done; by default this process.
    """
    mount_point.mkdir(exist_ok=True)
    where = ["nsenter", f"--target={namespace_of}", "--mount", "--"] if namespace_of else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(TOO_LONG)
    with ours, theirs:
        server = subprocess.Popen(
            [*where, sys.executable, SERVER, str(mount_point), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        try:
            if ours.recv(65536) != b'"mounted"':
                raise OSError(f"cannot mount a FUSE file system at {mount_point}: see above")
            yield HangingFilesystem(mount_point, ours)
        finally:
            # The server's death closes its descriptor, upon which the kernel fails every request (ENOTCONN).
            server.kill()
            server.wait()
            subprocess.run([*where, "umount", "--lazy", mount_point], check=False)


def can_mount() -> bool:
    """Whether this machine and user can mount the file system."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)
