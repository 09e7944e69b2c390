"""Follows the changes of the mount table."""

import logging

from lockd.engines.files.slow_mounts import SlowMounts
from lockd.linux.mount_table import MountChanges

_logger = logging.getLogger(__name__)


class MountWatch:
    """Keeps the slow mounts as the kernel has them.

    The kernel reports a change once: to the first poll of the file, whoever polls. A nested epoll polls twice, and the
    first poll clears the report: so the reactor's epoll, which trio polls in its own, cannot watch the file. A thread
    could wait for it, but with a second thread in the process every system call takes some 50 ns longer, as no mutex is
    free any more (measured: 4 % of a call). So the reactor looks before it serves.

    :param mounts: the slow mounts.
    """

    def __init__(self, mounts: SlowMounts) -> None:
        self._mounts = mounts
        self._changes = MountChanges()
        # What changes from now on, also while the mounts are read, is reported.
        self._outdated = True
        self.look()

    def look(self) -> None:
        """Take over what has changed since the last look."""
        if self._changes.happened():
            self._outdated = True
        if self._outdated:
            try:
                self._mounts.refresh(self._changes.read())
                self._outdated = False
            except OSError as error:
                _logger.error("the mounts cannot be read, and are taken to be as before: %s", error.strerror)
