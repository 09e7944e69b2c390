"""What the scenarios need: a daemon, disks on local and on slow file systems, a program that competes for the locks."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.faults import checks, tracer
from tests.faults.checks import require, soon
from tests.faults.peer import Peer
from tests.handover.program import Program
from tests.kernel_locks import locks_on
from tests.outsider import Outsider
from tests.private_daemon import LOCKD, PrivateDaemon
from tests.trouble.hanging_filesystem import mounted
from tests.waiting import wait_until

SHARED, AUTOCREATE = 1, 2

_RUN = Path("/run")
_STOPS_FIRST = """\
#!/bin/sh
kill -STOP $$
exec {lockd} "$@"
"""

_MORE_BYTES = 24 << 20
"""How much more memory the daemon may have after many points than at its start. Python keeps memory that is free."""


_THREADS_MAX = 8
"""More threads than ever work at the same time here. Idle ones end after ten seconds."""


class World:
    """The file systems stay. The daemon is started anew where a point has left it unclean.

    :ivar directory: for the daemon, and all files.
    :ivar trace: strace's output.
    :ivar disk: a disk on a local file system.
    :ivar shared: another one, which two owners have.
    :ivar link: a symbolic link to a third one.
    :ivar lockspace: a directory for leases, which the daemon makes.
    :ivar lease: a lease in it.
    :ivar slow: a file system with a server; on it are ``slow_disk`` and, in ``slow_lockspace``, ``slow_lease``.
    :ivar other_disk: a disk on another file system with a server.
    :ivar bystanders_disk: a disk of a guest that has nothing to do with the others.
    :ivar refused: whether the live upgrade was refused.
    :ivar inherited: how many descriptors the daemon has kept of a program before it, and does not need.
    :ivar outsider: a program that competes for the locks.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.trace = directory / "trace"
        self.disk, self.shared, self.link = (directory / name for name in ("disk", "shared", "link"))
        self.lockspace = directory / "leases" / "guests"
        self.lease = self.lockspace / "lease"
        self.slow, other = (
            stack.enter_context(mounted(directory / name)) for name in ("slow-server", "other-server")
        )
        self.slow_disk, self.other_disk = self.slow.path / "slow-disk", other.path / "other-disk"
        self.slow_lockspace = self.slow.path / "leases"
        self.slow_lease = self.slow_lockspace / "slow-lease"
        self.bystanders_disk, linked = directory / "bystanders-disk", directory / "linked"
        for file in (self.disk, self.shared, self.bystanders_disk, linked, self.slow_disk, self.other_disk):
            file.touch()
        self.link.symlink_to(linked)
        self.outsider = stack.enter_context(Outsider())
        self._program = Program(directory / "sbin")
        self._daemon: PrivateDaemon | None = None
        self._read: Counter[str] = Counter()
        self._peers: list[Peer] = []
        self.refused = False
        self.inherited = 0
        stack.callback(self.end_daemon)
        stack.callback(self.end_peers)

    @property
    def files(self) -> list[Path]:
        """All files that are locked."""
        return [
            self.disk, self.shared, self.link, self.lease, self.slow_disk, self.slow_lease, self.other_disk
        ]  # fmt: skip

    # The daemon

    @property
    def daemon(self) -> PrivateDaemon:
        """The daemon. The first use starts it."""
        if self._daemon is None:
            self.start_daemon()
            self.warm_up()
            self._measure()
        return self._daemon  # type: ignore[return-value]  # it is started

    def _measure(self) -> None:
        """Remember what a daemon has without clients, to compare it with what it has later."""
        self._descriptors = len(checks.descriptors(self.daemon))
        self._bytes = checks.resident_bytes(self.daemon)

    def clear(self) -> None:
        """End the daemon, and remove what it has left, so that another one can be started in another way."""
        _ = self.daemon  # what it has without clients is measured, if it was not yet
        self.end_daemon()
        for path in self.runtime_files():
            self._outside(path).unlink()

    def start_daemon(self, program: Path = LOCKD) -> None:
        """Start a daemon, and wait until it serves."""
        self._start(program)
        wait_until(self.daemon.serves, "the daemon serves")
        self.said()

    def start_virtlockd(self) -> None:
        """Start the real virtlockd, by a path where another program can be put in its place."""
        self._program.install("virtlockd")
        self.start_daemon(self._program.path)

    def start_stopped_daemon(self) -> None:
        """Start a daemon's process, which stops itself before it executes lockd. SIGCONT has it go on."""
        self.stop_next_program()
        self._start(self._program.path)
        self.wait_until_stopped()

    def stop_next_program(self) -> None:
        """Have the next program of ``start_virtlockd`` be lockd, whose process stops itself before it executes that."""
        self._program.install_script(_STOPS_FIRST.format(lockd=LOCKD))

    def wait_until_stopped(self) -> None:
        """Wait until the daemon's process has stopped itself."""
        wait_until(
            lambda: os.waitid(os.P_PID, self.daemon.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is not None,
            "the process waits for the tracer",
        )

    def _start(self, program: Path) -> None:
        (self.directory / "daemon").mkdir(exist_ok=True)
        self._daemon = PrivateDaemon(self.directory / "daemon", program)

    def runtime_files(self) -> list[Path]:
        """Return the paths below /run, as the daemon sees them, of all sockets and files that it has there."""
        run = self._outside(_RUN)
        return [_RUN / path.relative_to(run) for path in run.rglob("*") if not path.is_dir()]

    def pid_file(self) -> str:
        """Return the text of the daemon's pid file."""
        return self._outside(_RUN / "virtlockd.pid").read_text()

    def _outside(self, path: Path) -> Path:
        """Return where a path below the daemon's /run is for others."""
        return self.directory / "daemon" / "run" / path.relative_to(_RUN)

    def warm_up(self) -> None:
        """Have the daemon do everything once, so that its worker thread and all modules are there."""
        peer = self.peer("warm-up")
        peer.register()
        for file in (self.slow_disk, self.link, self.disk):
            peer.acquire(file)
            peer.release(file)
        self.end_peers()
        soon(lambda: not checks.table(self.daemon), "the daemon is warm")
        # It forgets which directories are local, and reads the mounts again.
        self.daemon.run_inside("sh", "-c", 'mount --bind "$1" "$1" && umount "$1"', "sh", str(self.disk))

    def end_daemon(self) -> None:
        """Kill the daemon. The next use starts a new one."""
        if self._daemon is not None:
            self._daemon.process.kill()
            self._daemon.process.wait()
            self._daemon = None
            self.inherited = 0

    def worker(self) -> int:
        """Return the number of the daemon's only worker thread."""
        (worker,) = (
            int(number)
            for number in os.listdir(f"/proc/{self.daemon.pid}/task")
            if int(number) != self.daemon.pid
        )
        return worker

    def said(self) -> str:
        """Return what the daemon has written, to its log and its output, since the last call."""
        return "".join(map(self._written, ("log", "output")))

    def _written(self, name: str) -> str:
        file = self.directory / "daemon" / name
        if not file.exists():
            return ""
        data = file.read_bytes()
        start, self._read[name] = self._read[name], len(data)
        return data[start:].decode(errors="replace")

    # Peers

    def peer(self, name: str, *, owner: Peer | None = None) -> Peer:
        """Start a peer."""
        peer = Peer(name, self.daemon, owner=owner)
        self._peers.append(peer)
        return peer

    @property
    def peers(self) -> list[Peer]:
        """All peers that are not ended."""
        return self._peers

    def end_peers(self) -> None:
        """Kill all peers."""
        while self._peers:
            self._peers.pop().end()

    # Checks

    def check_held(self) -> None:
        """Check what has to be true while guests live."""
        checks.nobody_killed(self._peers)
        checks.nothing_given_away(self.daemon, self._peers, self.outsider)

    def is_released(self, path: Path) -> bool:
        """Return whether the kernel has no lock on a file, or the fault has kept the file from being closed."""
        return not locks_on(path) or f"<{os.path.realpath(path)}>" in _without_other_calls(
            tracer.hit(self.trace)
        )

    def check_clean(self, hit: str = "", seconds: float = checks.PATIENCE) -> None:
        """Check what has to be true once no guest lives: nothing is left.

        :param hit: the call that failed, as strace shows it. If it is a close, the file is still open.
        :param seconds: how long the daemon may take for it.
        """
        require(self.daemon.process.poll() is None, "the daemon has ended")
        not_closed = hit.startswith("close(")
        kept = 1 if not_closed and f"<{self.directory}" in hit else 0
        # A file whose identity is not known may be one that is locked: closing it would end that lock.
        unknown = hit.startswith("newfstatat(") and f"<{self.directory}" in hit.partition(",")[0]
        # The next program keeps what it cannot name, as there may be a lock on it, and the descriptor of another log.
        unnamed = hit.startswith('readlink("/proc/self/fd/') or "/journal/socket" in hit
        leaked = len(tracer.hits(self.trace)) if not_closed or unknown or unnamed else 0
        soon(
            lambda: not checks.table(self.daemon),
            "a lock stays in the table after its owner's death",
            seconds,
        )
        soon(
            lambda: len(checks.kernel_locks(self.daemon)) <= kept,
            "a lock stays in the kernel after its owner's death",
            seconds,
        )
        if not kept:
            soon(
                lambda: not self.slow.locks(),
                "a lock stays at the file server after its owner's death",
                seconds,
            )
            checks.all_free(self.files, self.outsider)
        try:
            soon(
                lambda: len(checks.descriptors(self.daemon)) <= self._descriptors + self.inherited + leaked,
                "descriptors stay open",
                seconds,
            )
        except checks.Finding as finding:
            opened = sorted(checks.descriptors(self.daemon).values())
            raise checks.Finding(
                f"{finding}, {len(opened)} instead of {self._descriptors}: {opened}"
            ) from None
        require(
            checks.threads(self.daemon) <= _THREADS_MAX, f"{checks.threads(self.daemon)} threads are left"
        )
        more = checks.resident_bytes(self.daemon) - self._bytes
        require(more < _MORE_BYTES, f"the daemon has {more} more bytes of memory")

    def is_clean(self) -> bool:
        """Return whether the daemon can play another point: it has not even what a fault may leave."""
        return (
            not checks.kernel_locks(self.daemon)
            and len(checks.descriptors(self.daemon)) <= self._descriptors + self.inherited
        )

    def check_log(self) -> None:
        """Check that what the daemon has logged is for users."""
        said = self.said()
        require("Traceback" not in said, f"a traceback in the log: {said.strip().splitlines()[-1:]}")

    def tidy(self) -> None:
        """Remove what only the daemon makes, so that the next point finds what the last one found."""
        for directory, lease in ((self.lockspace, self.lease), (self.slow_lockspace, self.slow_lease)):
            lease.unlink(missing_ok=True)
            if directory.exists():
                directory.rmdir()
        if self.lockspace.parent.exists():
            self.lockspace.parent.rmdir()


def _without_other_calls(hit: str | None) -> str:
    return hit if hit is not None and hit.startswith("close(") else ""


@contextmanager
def world(directory: Path) -> Iterator[World]:
    """Make a world in an empty directory, and end everything in it at the end of the block."""
    with ExitStack() as stack:
        yield World(directory, stack)
