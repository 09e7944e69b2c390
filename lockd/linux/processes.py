"""Processes: pidfds, start times, names and limits (pidfd_open(2), proc(5))."""

import os
import select
import sys
import time
from pathlib import Path
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


def open_pidfd(pid: int) -> int | None:
    """Open a pidfd of a process.

    :param pid: the process.
    :returns: the descriptor, or None where no process has this pid.
    :raises OSError: the process may well exist, and cannot be watched: descriptors or memory have run out, the kernel
        has no pidfds (ENOSYS before Linux 5.3), or a filter of system calls forbids them.
    """
    if pid <= 0:
        return None
    try:
        return os.pidfd_open(pid)
    except (OverflowError, ProcessLookupError):
        return None


def has_ended(pidfd: int) -> bool:
    """Return whether a process has ended; a zombie has.

    :param pidfd: a descriptor of the process. It becomes readable at the end of the process (pidfd_open(2)).
    :returns: whether it has ended. False also where that cannot be known, as memory has run out (poll(2)).
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        return bool(poll.poll(0))
    except OSError:
        return False


def ticks_now() -> int:
    """Return how long the host has been up, in the unit of ``start_ticks``. No step of the clock changes it."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_PER_SECOND)


def start_ticks(pid: int | str) -> int:
    """Return when a process started, as ``ticks_now`` counts (field 22 of /proc/PID/stat).

    :param pid: the process; ``self`` for this one.
    :returns: the clock ticks from the boot of the host to the start of the process.
    :raises OSError: there is no such process.
    """
    status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    # Counted behind the name of the process, which may contain anything, blanks and brackets too (proc(5)).
    return int(status.rpartition(")")[2].split()[19])


def own_identity() -> str:
    """Return what distinguishes this process from every other one, of all times.

    :returns: the boot id of the host and the start time of the process; a pid alone is used again.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot}/{start_ticks('self')}"


def command_name(pid: int) -> str | None:
    """Return the name of a process (/proc/PID/comm).

    :param pid: the process.
    :returns: the name, which the process may have chosen freely; None where there is no such process.
    """
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\n")) or None
    except OSError:
        return None


def all_pids() -> list[int]:
    """Return the pids of all processes that this process can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def descriptor_limit(pid: int, *, hard: bool = False) -> int | None:
    """Return how many descriptors a process may have open (RLIMIT_NOFILE).

    :param pid: the process.
    :param hard: return the number that the process could raise its limit to.
    :returns: the limit; None where it cannot be read.
    """
    try:
        lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    (line,) = (line for line in lines if line.startswith("Max open files"))
    limit = line.split()[4 if hard else 3]
    return sys.maxsize if limit == "unlimited" else int(limit)
