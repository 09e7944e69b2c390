"""Explains refusals: which guest or process holds a lock, as far as this host can know (Invariant 6)."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from lockd.daemon.log.sinks import LogFile
from lockd.daemon.owner_process import OwnerProcess
from lockd.locks.errors import Busy, Outsider
from lockd.locks.resource import Resource, State

_OWNERS_NAMED: Final = 3
"""Of a disk that a hundred guests share, these are enough to go on."""


def busy_message(
    error: Busy,
    owner_of: Callable[[int], OwnerProcess | None],
    mount_that_blocks: Callable[[str], str | None],
) -> str:
    """Return the error's message with its holder.

    :param mount_that_blocks: where the file system of a path is mounted, if others than this host's processes
        may lock files there.
    """
    holder = error.holder
    if isinstance(holder, Resource):
        pids = list(dict.fromkeys(holder.holdings))
        named = pids[:_OWNERS_NAMED]
        owners = ", ".join(owner_words(pid, owner_of(pid)) for pid in named)
        more = len(pids) - len(named)
        others = f" and {more} more" if more else ""
        action = "being acquired by" if holder.state is State.ACQUIRING else "by"
        return f"{error} {action} {owners}{others}"
    if isinstance(holder, Outsider):
        return f"{error} by {_outsider_words(holder, mount_that_blocks)}"
    if isinstance(holder, str | LogFile):
        return f"{error} by {holder}"
    return str(error)


def owner_words(pid: int, process: OwnerProcess | None) -> str:
    """Return how to speak of the owner of this pid."""
    return process.describe() if process is not None else f"pid {pid}"


def _outsider_words(outsider: Outsider, mount_that_blocks: Callable[[str], str | None]) -> str:
    pid = outsider.pid
    if pid <= 0:
        # With a slash at its end, all of the path is followed.
        if mount_that_blocks(f"{outsider.path}/") is not None:
            return "another host"
        # Nobody else can lock there: an open file description, which has no process (OFD in fcntl(2)), or a
        # process of another pid namespace, such as a container's.
        return "a process of this host that the kernel does not name"
    try:
        command = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"pid {pid}"
    # A process may call itself anything; a message is one line.
    printable = "".join(letter if letter.isprintable() else "?" for letter in command)
    return f"process {printable} (pid {pid})"
