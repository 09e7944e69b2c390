"""lockd and virtlockd side by side. Each has files of its own, under the same paths."""

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
"""Where a daemon sees its files. Each daemon has its own, because each has its own /run."""

SLOW_TREE = "/run/slow"
"""A second tree, on an overlay: lockd treats it as a file system that may block, and uses worker threads."""

PING = encode(keepalive.PROGRAM, keepalive.VERSION, keepalive.Procedure.PING, FrameType.MESSAGE, serial=0)


def missing() -> str | None:
    """Return why this machine cannot run both daemons side by side, or None if it can."""
    if os.geteuid() != 0:
        return "two daemons of the same paths need root, for a mount namespace each"
    if not VIRTLOCKD.exists():
        return f"{VIRTLOCKD} is not installed"
    trial = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return f"no mount namespace: {trial.stderr.strip()}" if trial.returncode else None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one daemon answered: whole frames, and the state of the connection after the last one."""

    frames: tuple[bytes, ...]
    then: Literal["open", "closed", "silent"]


class Side:
    """One of the two daemons, with its locks and files as the kernel shows them."""

    def __init__(self, daemon: PrivateDaemon) -> None:
        self.daemon = daemon
        self.root = Path(f"/proc/{daemon.pid}/root")
        """The root directory of the daemon's mount namespace."""

    def make_trees(self) -> None:
        directory = self.daemon.run_directory
        (directory / "tree").mkdir()
        for name in ("slow", "lower", "upper", "work"):
            (directory / name).mkdir()
        options = "lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work"
        self.daemon.run_inside("mount", "-t", "overlay", "-o", options, "overlay", SLOW_TREE)

    def locks(self) -> list[tuple[str, ...]]:
        """Return file, mode and range of every POSIX lock that the daemon holds."""
        found = set()
        directory = Path(f"/proc/{self.daemon.pid}")
        for entry in os.listdir(directory / "fd"):
            # A connection may be closed in the meantime.
            with suppress(FileNotFoundError):
                file = os.readlink(directory / "fd" / entry)
                for line in (directory / "fdinfo" / entry).read_text().splitlines():
                    if line.startswith("lock:"):
                        words = line.split()
                        found.add((file, words[4], words[7], words[8]))
        return sorted(found)

    def files(self) -> dict[str, tuple[object, ...]]:
        """Return mode, size, link count, user and link target of each file and directory in the trees."""
        found: dict[str, tuple[object, ...]] = {}
        for top in (TREE, SLOW_TREE):
            for path, directories, files in os.walk(f"{self.root}{top}"):
                for name in (*directories, *files):
                    full = f"{path}/{name}"
                    status = os.lstat(full)
                    target = os.readlink(full) if os.path.islink(full) else None
                    # The size of a directory depends on the file system.
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
            return  # the daemon's earlier answers can still be read

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
    """Both daemons: lockd is the first, "ours"."""

    def __init__(self, ours: PrivateDaemon, theirs: PrivateDaemon) -> None:
        self.sides = [Side(ours), Side(theirs)]
        for side in self.sides:
            side.make_trees()

    def ours_has_locks_of(self, pid: int) -> bool:
        """Return whether lockd has locks of an owner left: on a slow file system a thread ends them later."""
        with StatusConnection.connect(self.sides[0].daemon.admin_socket) as status:
            return any(owner["pid"] == pid for lock in status.locks() for owner in lock["owners"])

    def settle(self) -> None:
        """Wait until both daemons have handled all events of before this call.

        Such an event is handled in the same turn of the event loop as the first PING, or earlier. So it has
        been handled when the second PING is answered.
        """
        for side in self.sides:
            end = End(side.daemon.connect())
            for _ in range(2):
                end.send(PING)
                end.receive(1)
            end.close()


@contextmanager
def pair_of_daemons(directory: Path) -> Iterator[Pair]:
    """Run both daemons in the given directory, which is emptied first."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with ExitStack() as stack:
        ours = stack.enter_context(private_daemon(directory / "lockd", LOCKD))
        theirs = stack.enter_context(private_daemon(directory / "virtlockd", VIRTLOCKD))
        yield Pair(ours, theirs)


def without_holder(answer: Answer) -> Answer:
    """Return lockd's answer as virtlockd words it: a busy resource without its holder."""
    return Answer(tuple(map(_without_holder, answer.frames)), answer.then)


def _without_holder(frame: bytes) -> bytes:
    _, program, version, procedure, kind, serial, status = HEADER.unpack_from(frame)
    if status != Status.ERROR:
        return frame
    error = ErrorReply.decode(frame[HEADER.size :])
    return encode(program, version, procedure, kind, serial, status, without_holder_of(error).encode())


def without_holder_of(error: ErrorReply) -> ErrorReply:
    """Return lockd's error as virtlockd words it: a busy resource without its holder."""
    if error.code != ErrorCode.RESOURCE_BUSY:
        return error
    return dataclasses.replace(error, message=_reduced(error.message), str2=_reduced(error.str2))


def _reduced(text: str | None) -> str | None:
    if text is None:
        return None
    what, locked, _ = text.rpartition("' is locked ")
    return what + locked.rstrip() if locked else text
