"""How many tasks (processes and threads) the control group of this process may have (cgroups(7), pids)."""

import os
from pathlib import Path
from typing import NamedTuple

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
