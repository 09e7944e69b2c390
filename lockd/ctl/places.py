"""Looking at paths on file systems that may hang: a process that waits for one cannot always be killed."""

import os
import select
import signal
from contextlib import suppress
from enum import Enum
from typing import Final, NamedTuple

from lockd.linux.descriptors import STANDARD_STREAMS

_ANSWER_BYTES: Final = 65536


class Kind(Enum):
    """What is at a path."""

    DIRECTORY = b"d"
    OTHER = b"o"
    NOTHING = b"n"


class Place(NamedTuple):
    """What a path leads to.

    :ivar kind: what is there.
    :ivar path: the path without symbolic links.
    """

    kind: Kind
    path: str


def place_of(path: str, seconds: float) -> Place | None:
    """Look where a path leads to, in a child, so that this process goes on if the file system hangs.

    :param path: the path.
    :param seconds: how long to wait for the file system.
    :returns: what is there; None if the file system does not answer in time.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(path, writer)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], seconds)
        answer = os.read(reader, _ANSWER_BYTES) if ready else b""
    finally:
        os.close(reader)
    if not answer:
        # It is not waited for: on some file systems the signal has an effect only once the server answers.
        os.kill(child, signal.SIGKILL)
        return None
    os.waitpid(child, 0)
    return Place(Kind(answer[:1]), os.fsdecode(answer[1:]))


def _answer(path: str, writer: int) -> None:
    """Write what is at a path to a pipe, and end this process at once: it shares the parent's buffers."""
    with suppress(BaseException):
        # Whoever reads the output of this program must not wait for the child.
        for stream in STANDARD_STREAMS:
            os.close(stream)
        kind = (
            Kind.DIRECTORY if os.path.isdir(path) else Kind.OTHER if os.path.lexists(path) else Kind.NOTHING
        )
        os.write(writer, kind.value + os.fsencode(os.path.realpath(path)))
    os._exit(0)
