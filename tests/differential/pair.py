"""lockd and virtlockd side by side, each with a file tree of the same paths, and lines that lead to both."""

import dataclasses
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

from lockd.client.status import StatusConnection
from lockd.wire import keepalive
from lockd.wire.errors import ErrorCode, ErrorReply
from lockd.wire.frames import HEADER, FrameType, Status, encode
from tests.private_daemon import LOCKD, VIRTLOCKD, PrivateDaemon, private_daemon

TREE = "/run/tree"
"""Where the daemons see their files; each its own, as each has its own /run."""

SLOW_TREE = "/run/slow"
"""The same on an overlay, which lockd takes for a file system that may block, and serves by worker threads."""

PING = encode(keepalive.PROGRAM, keepalive.VERSION, keepalive.Procedure.PING, FrameType.MESSAGE, serial=0)


def missing() -> str | None:
    """Why no pair can be had on this machine, or None where it can."""
    if os.geteuid() != 0:
        return "two daemons of the same paths need root, for a mount namespace each"
    if not VIRTLOCKD.exists():
        return f"{VIRTLOCKD} is not installed"
    trial = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return f"no mount namespace: {trial.stderr.strip()}" if trial.returncode else None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back on one end of a line: whole frames, and what followed the last one."""

    frames: tuple[bytes, ...]
    then: Literal["open", "closed", "silent"]


class Side:
    """One of the two daemons, and what the kernel and the file system say of it."""

    def __init__(self, daemon: PrivateDaemon) -> None:
        self.daemon = daemon
        self.root = Path(f"/proc/{daemon.pid}/root")
        """Leads to the files as the daemon sees them."""

    def make_trees(self) -> None:
        directory = self.daemon.run_directory
        (directory / "tree").mkdir()
        for name in ("slow", "lower", "upper", "work"):
            (directory / name).mkdir()
        options = "lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work"
        self.daemon.run_inside("mount", "-t", "overlay", "-o", options, "overlay", SLOW_TREE)

    def locks(self) -> list[tuple[str, ...]]:
        """File, mode and range of every POSIX lock that the daemon holds."""
        found = set()
        directory = Path(f"/proc/{self.daemon.pid}")
        for entry in os.listdir(directory / "fd"):
            # A connection may be closed meanwhile.
            with suppress(FileNotFoundError):
                file = os.readlink(directory / "fd" / entry)
                for line in (directory / "fdinfo" / entry).read_text().splitlines():
                    if line.startswith("lock:"):
                        words = line.split()
                        found.add((file, words[4], words[7], words[8]))
        return sorted(found)

    def files(self) -> dict[str, tuple[object, ...]]:
        """Type, mode, size, links, owner and link target of all that is in the trees."""
        found: dict[str, tuple[object, ...]] = {}
        for top in (TREE, SLOW_TREE):
            for path, directories, files in os.walk(f"{self.root}{top}"):
                for name in (*directories, *files):
                    full = f"{path}/{name}"
                    status = os.lstat(full)
                    target = os.readlink(full) if os.path.islink(full) else None
                    # The size of a directory is the file system's own affair.
                    size = 0 if os.path.isdir(full) else status.st_size
                    found[full.removeprefix(str(self.root))] = (
                        oct(status.st_mode),
                        size,
                        status.st_nlink,
                        status.st_uid,
                        target,
                    )
        return found


class End:
    """A connection to one daemon."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = b""

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            return  # what it said before can still be read

    def receive(self, pongs: int) -> Answer:
        """Return the frames up to the given number of PONGs, the PONGs included."""
        frames: list[bytes] = []
        while pongs:
            try:
                frame = self._next_frame()
            except TimeoutError:
                return Answer(tuple(frames), "silent")
            if frame is None:
                return Answer(tuple(frames), "closed")
            frames.append(frame)
            pongs -= frame == keepalive.PONG
        return Answer(tuple(frames), "open")

    def _next_frame(self) -> bytes | None:
        while True:
            if len(self._received) >= HEADER.size:
                length = HEADER.unpack_from(self._received)[0]
                if len(self._received) >= length:
                    frame, self._received = self._received[:length], self._received[length:]
                    return frame
            try:
                data = self._socket.recv(1 << 20)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._received += data

    def close(self) -> None:
        self._socket.close()


class Pair:
    """Both daemons: ours first."""

    def __init__(self, ours: PrivateDaemon, theirs: PrivateDaemon) -> None:
        self.sides = [Side(ours), Side(theirs)]
        for side in self.sides:
            side.make_trees()

    def ours_has_locks_of(self, pid: int) -> bool:
        """Whether lockd still has locks of an owner; on a slow file system a thread has to end them first."""
        with StatusConnection.connect(self.sides[0].daemon.admin_socket) as status:
            return any(owner["pid"] == pid for lock in status.locks() for owner in lock["owners"])

    def settle(self) -> None:
        """Return once both have served all that has happened by now.

        What happened before the first PING is in the same turn of their event loops at the latest, so it has
        been served before the second.
        """
        for side in self.sides:
            end = End(side.daemon.connect())
            for _ in range(2):
                end.send(PING)
                end.receive(1)
            end.close()


@contextmanager
def pair_of_daemons(directory: Path) -> Iterator[Pair]:
    """Run both daemons in a directory that is made anew."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with ExitStack() as stack:
        ours = stack.enter_context(private_daemon(directory / "lockd", LOCKD))
        theirs = stack.enter_context(private_daemon(directory / "virtlockd", VIRTLOCKD))
        yield Pair(ours, theirs)


def without_holder(answer: Answer) -> Answer:
    """Our answer in virtlockd's words: what is busy, but not who holds it."""
    return Answer(tuple(map(_without_holder, answer.frames)), answer.then)


def _without_holder(frame: bytes) -> bytes:
    _, program, version, procedure, kind, serial, status = HEADER.unpack_from(frame)
    if status != Status.ERROR:
        return frame
    error = ErrorReply.decode(frame[HEADER.size :])
    if error.code != ErrorCode.RESOURCE_BUSY:
        return frame
    reduced = dataclasses.replace(error, message=_reduced(error.message), str2=_reduced(error.str2))
    return encode(program, version, procedure, kind, serial, status, reduced.encode())


def _reduced(text: str | None) -> str | None:
    if text is None:
        return None
    what, locked, _ = text.rpartition("' is locked ")
    return what + locked.rstrip() if locked else text
