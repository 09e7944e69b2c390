"""Explains refusals: which guest or process holds a lock, as far as this host can know (Invariant 6)."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from lockd.daemon.log_sinks import LogFile
from lockd.daemon.owner_process import OwnerProcess
from lockd.locks.errors import Busy
from lockd.locks.resource import Resource, State

_OWNERS_NAMED: Final = 3
"""Of a disk that a hundred guests share, these are enough to go on."""


def busy_message(error: Busy, owner_of: Callable[[int], OwnerProcess | None]) -> str:
    """Return the error's message with its holder."""
    holder = error.holder
    if isinstance(holder, Resource):
        named = list(holder.owners)[:_OWNERS_NAMED]
        owners = ", ".join(owner_words(pid, owner_of(pid)) for pid in named)
        more = len(holder.owners) - len(named)
        others = f" and {more} more" if more else ""
        action = "being acquired by" if holder.state is State.ACQUIRING else "by"
        return f"{error} {action} {owners}{others}"
    if isinstance(holder, int):
        return f"{error} by {_process_words(holder)}"
    if isinstance(holder, str | LogFile):
        return f"{error} by {holder}"
    return str(error)


def owner_words(pid: int, process: OwnerProcess | None) -> str:
    """Return how to speak of the owner of this pid."""
    return process.describe() if process is not None else f"pid {pid}"


def _process_words(pid: int) -> str:
    if pid <= 0:
        return "another host"
    try:
        command = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f"pid {pid}"
    return f"process {command} (pid {pid})"
