"""Follows the changes of the mount table."""

import os
import select

from lockd.daemon.reactor import Reactor
from lockd.locks.mounts import MOUNTINFO, MountTable


def watch_mounts(reactor: Reactor, mounts: MountTable) -> None:
    """Keep ``mounts`` as the kernel has it, for as long as the process lives.

    The kernel reports a change as an exceptional condition on the open file (proc(5)).
    """
    fd = os.open(MOUNTINFO, os.O_RDONLY)
    reactor.watch(fd, select.EPOLLPRI, lambda _ready: mounts.refresh())
    # What was mounted since the table was read has been missed.
    mounts.refresh()
