"""Going into the background. The process that started the daemon learns whether it serves clients."""

import os
import sys
from contextlib import suppress
from typing import Final

from lockd.linux.descriptors import STANDARD_STREAMS

_SERVES: Final = b"+"
_REASON_MAX: Final = 4096
"""The largest reason, in bytes: as much as a pipe takes in one write(2) without waiting (PIPE_BUF in pipe(7))."""


class Background:
    """The background process's connection to the process that started the daemon.

    :param writer: a pipe that the other process reads.
    :ivar is_awaited: whether the other process waits to be told what has become of the daemon.
    """

    def __init__(self, writer: int) -> None:
        self._writer = writer
        self.is_awaited = True

    def started(self) -> None:
        """Let the other process exit with status 0, and redirect the standard streams to /dev/null."""
        null = os.open(os.devnull, os.O_RDWR)
        for stream in STANDARD_STREAMS:
            os.dup2(null, stream)
        os.close(null)
        self._tell(_SERVES)

    def failed(self, reason: str) -> None:
        """Let the other process print the reason, and exit with status 1.

        :param reason: why the daemon cannot start, in one line.
        """
        self._tell(reason.encode(errors="backslashreplace")[:_REASON_MAX])

    def _tell(self, message: bytes) -> None:
        # The other process may have been killed.
        with suppress(BrokenPipeError):
            os.write(self._writer, message)
        os.close(self._writer)
        self.is_awaited = False


def go_into_background() -> Background:
    """Continue in a background process without a terminal, as daemon(7) describes.

    The original process does not return from this function. It waits until the daemon has started, and then
    exits with status 0. If the background process ends before that, the original process prints why, if it is
    known, and exits with status 1.

    :returns: how to tell the original process what has become of the daemon.
    :raises OSError: no process or pipe can be created (fork(2), pipe(2)).
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        message = os.read(reader, _REASON_MAX)
        if message != _SERVES:
            reason = message.decode() or "the daemon ended before it served clients; its log may tell why"
            print(f"virtlockd: {reason}", file=sys.stderr, flush=True)
        os._exit(0 if message == _SERVES else 1)
    os.close(reader)
    background = Background(writer)
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
    except OSError as error:
        background.failed(f"the daemon cannot go into the background: {error.strerror}")
        os._exit(1)
    return background
