"""Sixteen holders drop their connections at once; some ignore SIGTERM, are stopped, or are dead already.

To measure a daemon, run it as a program: python -m tests.trouble.dropping_holders [PROGRAM]
"""

import fcntl
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from tests.private_daemon import LOCKD, PrivateDaemon, private_daemon
from tests.trouble.guest import Guest
from tests.trouble.stopwatch import Stopwatch

MANNERS = ("live", "deaf", "stopped", "zombie")
LONGEST = 60.0  # seconds until a lock that is not released counts as lost: virtlockd needs about 40


@dataclass
class Holder:
    """A guest that holds a lock, and its end. Times are in seconds since the connections were dropped."""

    manner: str
    guest: Guest
    path: Path
    died: float | None = None
    released: float | None = None
    dead_when_released: bool = False
    killed_by: int | None = None


@dataclass
class Observation:
    """The waits of an unrelated client, in seconds, and the end of each holder."""

    holders: list[Holder]
    waits: list[float] = field(default_factory=list)

    @property
    def worst_wait(self) -> float:
        """The longest wait of the unrelated client for a reply, in seconds."""
        return max(self.waits)

    def report(self) -> Iterator[str]:
        """Yield the lines of a report in words."""
        yield f"worst wait of an unrelated client: {self.worst_wait * 1000:.1f} ms in {len(self.waits)} calls"
        for manner in MANNERS:
            mine = [holder for holder in self.holders if holder.manner == manner]
            died = max(holder.died or 0 for holder in mine)
            released = max(holder.released or 0 for holder in mine)
            early = sum(not holder.dead_when_released for holder in mine)
            yield (
                f"{manner:8} dead after {died:6.3f} s, released after {released:6.3f} s at the latest;"
                f" released before they were dead: {early} of {len(mine)}"
            )


def observe(daemon: PrivateDaemon, directory: Path, of_each: int = 4) -> Observation:
    """Start holders, drop their connections, and make calls as another guest until all locks are released."""
    with ExitStack() as stack:
        holders = [
            Holder(manner, stack.enter_context(Guest(daemon.socket)), directory / f"{manner}{number}")
            for manner in MANNERS
            for number in range(of_each)
        ]
        bystander = stack.enter_context(Guest(daemon.socket, patience=LONGEST))
        for holder in holders:
            holder.path.touch()
            holder.guest.acquire(holder.path)
            _misbehave(holder)
        own = directory / "bystander"
        own.touch()
        observation = Observation(holders)
        stopwatch = Stopwatch(daemon.pid)
        start = time.monotonic()
        threads = [
            Thread(target=watch, args=[holder, start], daemon=True)
            for holder in holders
            for watch in (_watch_death, _watch_lock)
        ]
        for thread in threads:
            thread.start()
        for holder in holders:
            holder.guest.drop_connection()
        while any(thread.is_alive() for thread in threads):
            assert time.monotonic() - start < LONGEST, "\n".join(observation.report())
            observation.waits += [
                stopwatch.time(call, own) for call in (bystander.acquire, bystander.release)
            ]
        return observation


def _misbehave(holder: Holder) -> None:
    if holder.manner == "deaf":
        holder.guest.ignore_sigterm()
    elif holder.manner == "stopped":
        holder.guest.stop()
    elif holder.manner == "zombie":
        holder.guest.become_zombie()


def _watch_death(holder: Holder, start: float) -> None:
    """Record when the process ends, and reap it as a parent does.

    A holder that is to be a zombie is not reaped.
    """
    holder.guest.wait_for_death(LONGEST)
    holder.died = time.monotonic() - start
    if holder.manner != "zombie":
        holder.killed_by = holder.guest.reap()


def _watch_lock(holder: Holder, start: float) -> None:
    """Record when another process can get the lock, and whether the holder was dead by then."""
    with holder.path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1)
        holder.dead_when_released = holder.guest.is_dead
        holder.released = time.monotonic() - start


def main() -> None:
    """Measure the daemon that the command line names, lockd by default."""
    program = Path(sys.argv[1]) if len(sys.argv) > 1 else LOCKD
    with (
        tempfile.TemporaryDirectory(prefix="holders-") as directory,
        private_daemon(Path(directory, "daemon"), program) as daemon,
    ):
        print(program, *observe(daemon, Path(directory)).report(), sep="\n")


if __name__ == "__main__":
    main()
