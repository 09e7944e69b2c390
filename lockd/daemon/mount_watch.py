"""Follows the changes of the mount table."""

import logging
import select

from lockd.locks.mounts import MOUNTINFO, MountTable

_logger = logging.getLogger(__name__)


class MountWatch:
    """Keeps a mount table as the kernel has it.

    The kernel reports a change as an exceptional condition on the open file (proc(5)), once: to the next poll,
    whoever asks. An epoll descriptor in another one, as the reactor's is in trio's, asks twice for one answer, and
    the news is lost in between. A thread could wait for it, but with a second thread in the process every system
    call takes some 50 ns longer, as no mutex is free any more (measured: 4 % of a call). So whoever is about to serve
    asks first.

    The file stays open: one day there may be no descriptor left to open it again.
    """

    def __init__(self, mounts: MountTable) -> None:
        self._mounts = mounts
        self._file = open(MOUNTINFO, "rb", buffering=0)  # noqa: SIM115 - as long as the daemon
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)
        # What changes from now on, also while the table is read, is reported.
        self._outdated = True
        self.look()

    def look(self) -> None:
        """Take over what has changed since the last look."""
        if self._poll.poll(0):
            self._outdated = True
        if self._outdated:
            try:
                self._file.seek(0)
                self._mounts.refresh(self._file.readall())
                self._outdated = False
            except OSError as error:
                _logger.error("the mounts cannot be read, and are taken to be as before: %s", error.strerror)
