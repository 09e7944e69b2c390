"""How many tasks (processes and threads) there may be.

The control group of this process has a limit (cgroups(7), pids), and its user has one (RLIMIT_NPROC in getrlimit(2)).
"""

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lockd.linux.processes import all_pids

_ROOT: Final = 0

_V1 = Path("/sys/fs/cgroup/pids")
_V2 = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


class TaskUsage(NamedTuple):
    """The tasks of a control group.

    :ivar used: how many it has.
    :ivar limit: how many it may have.
    :ivar where: the file with the limit.
    """

    used: int
    limit: int
    where: str


class TaskLimit:
    """The limits of the control groups that this process is in: its own, and those above it."""

    def __init__(self) -> None:
        self._groups = _groups()

    def usage(self) -> TaskUsage | None:
        """Return the tasks of the group whose limit is nearest.

        :returns: None if no group has a limit that can be read.
        """
        known = [usage for group in self._groups if (usage := _usage(group)) is not None]
        return min(known, key=lambda usage: usage.limit - usage.used, default=None)


def _groups() -> list[Path]:
    """Return the directories of the control groups, the innermost one first."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    groups = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers in {"", "pids"}:
            for root in [_V1] if controllers else _V2:
                group = root / name.lstrip("/")
                groups += [group, *(parent for parent in group.parents if root in parent.parents)]
    return [group for group in groups if os.path.exists(group / "pids.max")]


def _usage(group: Path) -> TaskUsage | None:
    file = group / "pids.max"
    try:
        limit = file.read_text(encoding="utf-8").strip()
        used = int((group / "pids.current").read_text(encoding="utf-8"))
        return None if limit == "max" else TaskUsage(used, int(limit), str(file))
    except (OSError, ValueError):
        return None


def user_task_limit() -> int | None:
    """Return how many tasks the user of this process may have.

    :returns: None where there is no limit, as for root.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return None if limit == resource.RLIM_INFINITY or os.getuid() == _ROOT else limit


def tasks_of_host() -> int:
    """Return how many tasks all users of the host have together, which the kernel knows without counting.

    :returns: the number (/proc/loadavg in proc(5)).
    :raises OSError: it cannot be read.
    """
    tasks = Path("/proc/loadavg").read_text(encoding="utf-8").split()[3]
    return int(tasks.partition("/")[2])


def tasks_of_user() -> int:
    """Count the tasks of the user of this process. It takes some microseconds for each process of the host.

    A directory in /proc belongs to the user of the process (proc(5)), and has a link more for each directory in it.

    :returns: the number; some are missing if they belong to programs with the rights of another user.
    """
    user = os.getuid()
    tasks = 0
    for pid in all_pids():
        with suppress(OSError):
            status = os.stat(f"/proc/{pid}/task")
            if status.st_uid == user:
                tasks += status.st_nlink - 2
    return tasks
