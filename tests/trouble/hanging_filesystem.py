"""Mount and control the file system of fuse_server.py, which hangs or fails on demand."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

SERVER = Path(__file__).with_name("fuse_server.py")
TOO_LONG = 10.0  # seconds until a test gives up on an event: far beyond any expected wait


class ServerLock(NamedTuple):
    """A POSIX lock in the file system's server: path below the mount point, pid of the process, mode."""

    path: str
    pid: int
    exclusive: bool


class HangingFilesystem:
    """A mounted FUSE file system whose answers the test can delay, or replace by errors.

    Operations have their names in the kernel's protocol, in lower case: "lookup", "getattr", "open",
    "create", "mknod", "read", "unlink", "setlk", "getlk", "flush" (each close), "release" (the last close), "opendir";
    "everything" means all of them.
    """

    def __init__(self, mount_point: Path, commands: socket.socket) -> None:
        self.path = mount_point
        self._commands = commands

    def wait_until_mounted(self) -> None:
        if self._commands.recv(65536) != b'"mounted"':
            raise OSError(f"cannot mount a FUSE file system at {self.path}: see above")

    def hang(self, *operations: str) -> None:
        """Leave the given operations unanswered from now on."""
        self._command("hang", *operations)

    def hang_after(self, count: int) -> None:
        """Answer all requests that hang, and so many more, and no others until `release_all`."""
        self._command("hang_after", count)

    def hangs(self) -> bool:
        """Return whether there is a request that hangs."""
        answer: bool = self._command("hangs")
        return answer

    def remember(self, kind: str) -> None:
        """Remember names and attributes from now on, as "NFSv3", "NFSv4" or "FUSE" does.

        What this host has remembered until now is forgotten.
        """
        self._command("remember", kind)

    def fail(self, **operations: int) -> None:
        """Have operations fail from now on, each with an errno; all others do not fail any more.

        An operation that fails with ENOSYS is one that the server does not have. The kernel remembers that of
        some operations, and asks for them no more.
        """
        self._command("fail", operations)

    def release_all(self) -> None:
        """Answer all requests that hang, in their order, and all requests from now on."""
        self._command("release")

    def wait_for(self, operation: str, count: int = 1) -> None:
        """Wait until `count` requests of an operation have reached the server since it was mounted."""
        self._command("wait", operation, count)

    def arrived(self, operation: str) -> int:
        """Return how many requests of an operation have reached the server since it was mounted."""
        number: int = self._command("arrived", operation)
        return number

    def lock_elsewhere(self, path: str) -> None:
        """Lock byte 0 of a file for another host; the path is relative to the mount point."""
        self._command("lock_elsewhere", path)

    def make(self, *paths: str) -> None:
        """Make files, and directories, whose paths end with a slash; the paths are relative to the mount point."""
        self._command("make", *paths)

    def files(self) -> dict[str, int]:
        """Return the mode of each file and directory, by its path below the mount point."""
        modes: dict[str, int] = self._command("files")
        return modes

    def locks(self) -> list[ServerLock]:
        """Return all locks that the server keeps."""
        return [ServerLock(held["path"], held["pid"], held["exclusive"]) for held in self._command("locks")]

    def _command(self, *words: object) -> Any:
        self._commands.send(json.dumps(words).encode())
        return json.loads(self._commands.recv(65536))


@contextmanager
def mounted(mount_point: Path, namespace_of: int | None = None) -> Iterator[HangingFilesystem]:
    """Mount a file system on `mount_point`, which is created if it is missing.

    At the end of the context, requests that still hang fail, and the file system is unmounted. `namespace_of`
    is the pid of a process in whose mount namespace it is mounted; None means this process.
    """
    with mounted_on_hosts([mount_point], namespace_of) as [filesystem]:
        yield filesystem


@contextmanager
def mounted_on_hosts(
    mount_points: list[Path], namespace_of: int | None = None
) -> Iterator[list[HangingFilesystem]]:
    """Mount the same files on several mount points, as on several hosts. See `mounted`."""
    where = ["nsenter", f"--target={namespace_of}", "--mount", "--"] if namespace_of else []
    subprocess.run([*where, "mkdir", "--parents", *mount_points], check=True)
    with ExitStack() as stack:
        filesystems = []
        arguments: list[str] = []
        with ExitStack() as for_the_server:
            descriptors = []
            for mount_point in mount_points:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.enter_context(ours).settimeout(TOO_LONG)
                descriptors.append(for_the_server.enter_context(theirs).fileno())
                arguments += [str(mount_point), str(theirs.fileno())]
                filesystems.append(HangingFilesystem(mount_point, ours))
            server = subprocess.Popen([*where, sys.executable, SERVER, *arguments], pass_fds=descriptors)
        try:
            for filesystem in filesystems:
                filesystem.wait_until_mounted()
            yield filesystems
        finally:
            # The server's death closes its descriptors of /dev/fuse. The kernel then fails every request
            # (ENOTCONN).
            server.kill()
            server.wait()
            subprocess.run([*where, "umount", "--lazy", *mount_points], check=False)


def can_mount() -> bool:
    """Return whether this user can mount the file system on this machine."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)
