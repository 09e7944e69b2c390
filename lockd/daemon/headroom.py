"""Headroom: how near the daemon is to its limits of descriptors and tasks, with a warning before they are reached.

Without descriptors no client is accepted and no lock is taken; without tasks none on a slow file system. Both
look like a hanging libvirtd.
"""

import logging
import os
import resource
from contextlib import suppress
from typing import Final

from lockd.daemon.rate_limit import Trouble
from lockd.linux.task_limit import TaskLimit, tasks_of_host, tasks_of_user, user_task_limit

_NEARLY: Final = 0.9
"""From this part of a limit on, the administrator is warned."""

_COUNTED_EVERY: Final = 10
"""Every how many looks the tasks of the user are counted, if there may be so many at all."""

_logger = logging.getLogger(__name__)


class Headroom:
    """Looks at the limits, and warns once in an episode if one of them is near."""

    def __init__(self) -> None:
        self._descriptors = Trouble(_logger)
        self._tasks = Trouble(_logger)
        self._user_tasks = Trouble(_logger)
        self._task_limit = TaskLimit()
        self._looks = 0

    def look(self) -> None:
        """Look at the limits. This takes a few system calls in most cases, and does not block.

        A limit that cannot be read is not looked at.
        """
        with suppress(OSError):
            self._look_at_descriptors()
        self._look_at_tasks()
        with suppress(OSError):
            if self._looks % _COUNTED_EVERY == 0:
                self._look_at_tasks_of_user()
        self._looks += 1

    def _look_at_descriptors(self) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = lowest_free_descriptor(limit)
        if used >= limit * _NEARLY:
            self._descriptors.seen(
                "%d of %d descriptors are in use; without one, no client is accepted and no lock is taken: "
                "raise LimitNOFILE= of virtlockd.service (ulimit -n)",
                used,
                limit,
            )

    def _look_at_tasks(self) -> None:
        tasks = self._task_limit.usage()
        if tasks is not None and tasks.used >= tasks.limit * _NEARLY:
            self._tasks.seen(
                "%d of %d tasks are in use (%s); without one, no lock on a slow file system is taken: "
                "raise TasksMax= of virtlockd.service",
                tasks.used,
                tasks.limit,
                tasks.where,
            )

    def _look_at_tasks_of_user(self) -> None:
        limit = user_task_limit()
        if limit is None or tasks_of_host() < limit * _NEARLY:
            return
        used = tasks_of_user()
        if used >= limit * _NEARLY:
            self._user_tasks.seen(
                "user %d has %d of %d tasks (RLIMIT_NPROC); without one, no lock on a slow file system is taken: "
                "raise LimitNPROC= of virtlockd.service (ulimit -u)",
                os.getuid(),
                used,
                limit,
            )


def lowest_free_descriptor(limit: int) -> int:
    """Return the number that the next descriptor gets.

    As the kernel gives the lowest free one (open(2)), at least as many are in use. To count them would take
    time for each.

    :param limit: how many descriptors the process may have open.
    :returns: the number; the limit if none is free.
    """
    try:
        fd = os.eventfd(0, os.EFD_CLOEXEC)
    except OSError:
        return limit
    os.close(fd)
    return fd
