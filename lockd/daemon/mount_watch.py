"""Keeps up to date what is known of the mounts: which are slow, and which have no files but the kernel's own."""

import logging

from lockd.daemon.rate_limit import Trouble
from lockd.engines.files.inodes import Inodes
from lockd.engines.files.slow_mounts import SlowMounts
from lockd.linux.mount_table import MountChanges, parse
from lockd.linux.pseudo_files import pseudo_devices

_logger = logging.getLogger(__name__)


class MountWatch:
    """Updates what is known of the mounts when the kernel's mount table has changed.

    The kernel reports a change once, to the first poll of an open mountinfo file (POLLPRI). A nested epoll
    polls twice, and the first poll clears the report. trio polls the reactor's epoll descriptor in an epoll
    of its own, so the reactor cannot watch the file. A thread could wait for the file. But with a second
    thread in the process, every system call takes some 50 ns longer, because mutexes cost nothing only while
    there is a single thread (measured: 4 % of a call). So the reactor calls ``look`` before it serves.

    :param mounts: the slow mounts.
    :param inodes: the registry that opens lockable files.
    """

    def __init__(self, mounts: SlowMounts, inodes: Inodes) -> None:
        self._mounts = mounts
        self._inodes = inodes
        self._changes = MountChanges()
        # ``MountChanges`` reports what changes from now on. So a change while ``look`` reads the mounts is
        # not missed.
        self._outdated = True
        self._unreadable = Trouble(_logger)
        self.look()

    def look(self) -> None:
        """Read the mounts again if they have changed since the last call.

        If they cannot be read, that is logged once, and the next call tries again.
        """
        try:
            if self._changes.happened():
                self._outdated = True
            if self._outdated:
                mounts = parse(self._changes.read())
                self._mounts.refresh(mounts)
                self._inodes.pseudo_devices = pseudo_devices(mounts)
                self._outdated = False
        except OSError as error:
            # It is not known whether the mounts have changed.
            self._outdated = True
            self._unreadable.seen(
                "the mounts cannot be read; the daemon goes on with those it knows: %s", error.strerror
            )
