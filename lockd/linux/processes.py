"""Processes: pidfds, start times, names and limits (pidfd_open(2), proc(5))."""

import errno
import os
import select
import sys
from pathlib import Path
from typing import Final

_NO_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))


def open_pidfd(pid: int) -> int | None:
    """Open a pidfd of a process.

    :param pid: the process.
    :returns: the descriptor, or None where there is no such process that can be seen from here.
    :raises OSError: there are no descriptors or no memory left; the process may well exist.
    """
    try:
        return os.pidfd_open(pid)
    except OverflowError:
        return None
    except OSError as error:
        if error.errno in _NO_RESOURCES:
            raise
        return None


def has_ended(pidfd: int) -> bool:
    """Return whether a process has ended; a zombie has.

    :param pidfd: a descriptor of the process. It becomes readable at the end of the process (pidfd_open(2)).
    :returns: whether it has ended.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def was_running(pid: int, moment: float) -> bool:
    """Return whether a process lives that had this pid already at a given moment.

    :param pid: the pid.
    :param moment: seconds since the epoch. A process that started up to a second later counts too, as start times
        are known to a hundredth of a second and the boot time to a second.
    :returns: True also where it cannot be known that it is another process.
    """
    try:
        pidfd = open_pidfd(pid)
    except OSError:
        pidfd = None
    if pidfd is None:
        return os.path.exists(f"/proc/{pid}")
    try:
        return not has_ended(pidfd) and started_at(pid) <= moment + 1
    finally:
        os.close(pidfd)


def started_at(pid: int) -> float:
    """Return when a process started.

    :param pid: the process.
    :returns: seconds since the epoch; 0 where that cannot be known.
    """
    try:
        ticks = int(_start_ticks(pid))
        booted = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines()
            if line.startswith("btime ")
        )
    except (OSError, StopIteration):
        return 0.0
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def own_identity() -> str:
    """Return what distinguishes this process from every other one, of all times.

    :returns: the boot id of the host and the start time of the process; a pid alone is used again.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot}/{_start_ticks('self')}"


def _start_ticks(pid: int | str) -> str:
    """Return field 22 of /proc/PID/stat: the start time in clock ticks since the boot."""
    status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    # Counted behind the name of the process, which may contain anything, blanks and brackets too (proc(5)).
    return status.rpartition(")")[2].split()[19]


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
