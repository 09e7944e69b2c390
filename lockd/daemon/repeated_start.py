"""The start of the next program in a live upgrade, which is repeated if it fails.

After execve(2) there is no way back to the program before, and all locks end with the process. So a fault of a moment,
such as a descriptor or memory that is missing, must not end it. Until the next program begins to take over, it has
changed nothing: the same program is executed again, with the same descriptors and the same state file.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Final

from lockd.linux.descriptors import STANDARD_STREAMS, open_descriptors
from lockd.linux.proc_locks import posix_locks

_ATTEMPTS: Final = "LOCKD_START_ATTEMPTS"
"""The environment variable with the number of starts that have failed."""

_ATTEMPTS_MAX: Final = 20
_PAUSE_SECONDS: Final = 0.25
"""How often a start is repeated, and the pause before each time. Clients wait meanwhile."""

_LONG_PAUSE_SECONDS: Final = 2.0
"""The pause before each further time, if the process has locks: they are kept until an administrator has mended what is
wrong, such as a package that is half installed. The next start uses it then."""


class Start:
    """The start of this program.

    :param inherited: the descriptors that the program before has left open. Without any, there was none.
    :ivar failures: how many starts before this one have failed.
    """

    def __init__(self, inherited: list[int]) -> None:
        self._inherited = inherited
        number = os.environ.pop(_ATTEMPTS, "")
        self.failures = int(number) if number.isdecimal() else 0
        self._is_over = not inherited or (self._has_failed_often and not _has_locks())

    @property
    def can_be_repeated(self) -> bool:
        """Whether this is a live upgrade, and nothing is taken over yet.

        If the process has no locks that the kernel lists, it is repeated for some seconds only.
        """
        return not self._is_over

    @property
    def _has_failed_often(self) -> bool:
        """Whether so many starts have failed that it is no fault of a moment."""
        return self.failures >= _ATTEMPTS_MAX

    def take_over(self) -> None:
        """Record that this program begins to take over: from now on the start cannot be repeated."""
        self._is_over = True

    def repeat(self, error: Exception) -> None:
        """Execute this program again, if possible. Otherwise, return.

        Call it in the handler of the exception: as long as that is handled, the objects of the start keep their
        descriptors open.

        :param error: why this start has failed.
        """
        if self._is_over:
            return
        print(f"virtlockd: the start failed and is repeated: {error!r}", file=sys.stderr, flush=True)
        _tell_watchdog()
        time.sleep(_LONG_PAUSE_SECONDS if self._has_failed_often else _PAUSE_SECONDS)
        for number in (signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for fd in self._inherited:
            with suppress(OSError):
                os.set_inheritable(fd, True)
        os.environ[_ATTEMPTS] = str(self.failures + 1)
        with suppress(OSError):
            os.execv(sys.executable, sys.orig_argv)


def _has_locks() -> bool:
    """Return whether this process has inherited locks. If that cannot be told, it may have."""
    try:
        return bool(posix_locks(os.getpid()))
    except (OSError, MemoryError):
        return True


def _tell_watchdog() -> None:
    """Keep systemd from ending this process, which takes longer to start than the watchdog waits (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with suppress(OSError, MemoryError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.sendto(b"WATCHDOG=1", socket.MSG_DONTWAIT, address)


def this_start() -> Start:
    """Return the start of this program. Call it before the program opens descriptors that stay open.

    :returns: the start.
    """
    inherited = []
    opened: list[int] = []
    # If they cannot be listed now, the start goes on: it may not have to be repeated.
    with suppress(OSError):
        opened = open_descriptors()
    for fd in opened:
        with suppress(OSError):
            if fd not in STANDARD_STREAMS and os.get_inheritable(fd):
                inherited.append(fd)
    return Start(inherited)
