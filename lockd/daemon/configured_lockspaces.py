"""The lockspaces of virtlockd.conf. They are made when the daemon starts.

libvirt makes the lockspaces of qemu-lockd.conf only. For a ``<lease>`` in a guest's XML it acquires a resource in a
lockspace that nobody has made (measured).
"""

import logging
from collections.abc import Iterable

from lockd.daemon.locker import Continuation, Locker
from lockd.daemon.tasks import Tasks
from lockd.locks.errors import LockError

_logger = logging.getLogger(__name__)


def make_lockspaces(paths: Iterable[str], locker: Locker, tasks: Tasks) -> None:
    """Make lockspaces and their directories, as CREATE_LOCKSPACE does. One that cannot be made is logged.

    This does not wait for file systems that may block: their lockspaces are made in tasks (Invariant 3).

    :param paths: the paths of the lockspaces.
    :param locker: makes the lockspaces.
    :param tasks: runs the tasks.
    """
    for path in paths:
        try:
            rest = locker.create_lockspace(path)
        except LockError as error:
            _report(error)
        else:
            if rest is not None:
                tasks.start(_make_slowly, rest)


async def _make_slowly(rest: Continuation) -> None:
    try:
        await rest()
    except LockError as error:
        _report(error)


def _report(error: LockError) -> None:
    _logger.error("a lockspace of the configuration is not available: %s", error)
