"""Going into the background. The process that started the daemon learns whether it serves clients."""

import os
import sys
from collections.abc import Callable


def go_into_background() -> Callable[[], None]:
    """Continue in a background process without a terminal, as daemon(7) describes.

    The original process does not return from this function. It waits until the daemon has started, and then
    exits with status 0. If the background process ends before that, the original process exits with status 1;
    the background process has written the error to the same standard error.

    :returns: a function to be called once the daemon serves clients. It lets the original process exit, and
        redirects standard input, output and error to /dev/null.
    :raises OSError: no process or pipe can be created (fork(2), pipe(2)).
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
