"""Going into the background, so that the caller learns whether the daemon has started."""

import os
import sys
from collections.abc import Callable


def go_into_background() -> Callable[[], None]:
    """Continue in a process without a terminal, as daemon(7) describes; the calling process waits.

    :returns: to be called once the daemon serves: the calling process then ends with status 0. If this process
        ends before that, the calling one ends with status 1; what went wrong was written to its stderr.
    """
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        serves = os.read(reader, 1) == b"+"
        os._exit(0 if serves else 1)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")

    def started() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            os.dup2(null, stream.fileno())
        os.close(null)
        os.write(writer, b"+")
        os.close(writer)

    return started
