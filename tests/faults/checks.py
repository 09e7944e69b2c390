"""What has to be true after each point, whatever has failed.

The checks look from outside: at the kernel's locks, at what another process can lock, at processes, at what the daemon
answers. They believe the daemon's table only where the kernel says the same.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from lockd.client.errors import ClientError
from lockd.client.status import StatusConnection
from tests.faults.peer import Peer
from tests.kernel_locks import locks_of
from tests.outsider import Outsider
from tests.private_daemon import PrivateDaemon

PATIENCE = 4.0
"""After how many seconds without an answer something hangs. A fencing may take 1.7 s, a new client may wait for a second
until the daemon accepts clients again, and a busy machine adds to both."""


class Finding(Exception):
    """Something is not as it has to be."""


def require(condition: object, text: str) -> None:
    """Raise a finding if a condition is not true."""
    if not condition:
        raise Finding(text)


def soon(condition: Callable[[], bool], text: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition; raise a finding if it does not become true."""
    end = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() < end, text)
        time.sleep(0.004)


def identity(path: Path) -> tuple[int, int]:
    """Return the device and inode numbers of a file."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def kernel_locks(daemon: PrivateDaemon) -> set[tuple[int, int]]:
    """Return the identities of the files that the daemon has locked, but its pid file. FUSE lists none."""
    try:
        own = {identity(daemon.run_directory / "virtlockd.pid")}
    except FileNotFoundError:
        own = set()
    return set(locks_of(daemon.pid)) - own


def table(daemon: PrivateDaemon) -> dict[Path, set[int]]:
    """Return the pids of the owners of each lock that the daemon says is held. One failed connection is no finding."""
    try:
        return _table(daemon)
    except ClientError:
        return _table(daemon)


def _table(daemon: PrivateDaemon) -> dict[Path, set[int]]:
    with StatusConnection.connect(daemon.admin_socket, timeout=PATIENCE) as status:
        return {
            Path(lock["path"]): {owner["pid"] for owner in lock["owners"]}
            for lock in status.locks()
            if lock["state"] == "held"
        }


def nobody_killed(peers: Iterable[Peer]) -> None:
    """Check that all peers live, but those that may be dead."""
    for peer in peers:
        require(peer.is_lost or not peer.guest.is_dead, f"{peer} was killed")


def nothing_given_away(daemon: PrivateDaemon, peers: Iterable[Peer], outsider: Outsider) -> None:
    """Check that nobody else can lock a file that a living peer relies on, and that the table has it."""
    living = [peer for peer in peers if not peer.guest.is_dead]
    nothing_free(living, outsider)
    known = table(daemon)
    for peer in living:
        for path in sorted(peer.relies_on):
            require(
                peer.pid in known.get(path, ()), f"{path.name} is not in the table, and {peer} relies on it"
            )


def nothing_free(peers: Iterable[Peer], outsider: Outsider) -> None:
    """Check that nobody else can lock a file that a peer relies on."""
    for peer in peers:
        for path in sorted(peer.relies_on):
            free = outsider.lock(path, "WRITE")
            outsider.unlock_all()
            require(not free, f"{path.name} is free for other programs, and {peer} relies on it")


def table_and_kernel_agree(
    daemon: PrivateDaemon, unlisted: Path, artefacts: Iterable[tuple[int, int]] = ()
) -> None:
    """Check that the table has the same locks as the kernel.

    :param daemon: the daemon.
    :param unlisted: a directory with files of which the kernel lists no locks.
    :param artefacts: files whose lock only the kernel may have, as the test has kept a descriptor from being closed.
    """
    named = {identity(path) for path in table(daemon) if not path.is_relative_to(unlisted)}
    listed = kernel_locks(daemon)
    require(named <= listed, "the table has a lock that the kernel has not")
    require(listed - set(artefacts) <= named, "the kernel has a lock that the table has not")


def all_free(paths: Iterable[Path], outsider: Outsider) -> None:
    """Check that another program can lock each file."""
    for path in paths:
        if path.exists():
            free = outsider.lock(path, "WRITE")
            outsider.unlock_all()
            require(free, f"{path.name} is still locked, and nobody relies on it")


def descriptors(daemon: PrivateDaemon) -> dict[int, str]:
    """Return what the daemon's descriptors lead to."""
    directory = Path(f"/proc/{daemon.pid}/fd")
    found = {}
    for entry in directory.iterdir():
        try:
            found[int(entry.name)] = os.readlink(entry)
        except FileNotFoundError:
            continue
    return found


def threads(daemon: PrivateDaemon) -> int:
    """Return how many threads the daemon has."""
    return len(os.listdir(f"/proc/{daemon.pid}/task"))


def resident_bytes(daemon: PrivateDaemon) -> int:
    """Return the daemon's memory."""
    return int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
