"""Open files that a state does not tell of, on both sides of an exec.

A worker thread may open a file just before the process is replaced. Closing such a descriptor unseen could end a lock on
the same inode (Invariant 1), and closing it may block. So it is handed on, and claimed.
"""

import fcntl
import os
from collections.abc import Collection
from contextlib import suppress
from typing import Final

import trio

from lockd.daemon.slow_calls import SlowCalls
from lockd.engines.files.inodes import ABANDONED, ORPHANED, Claimed, Inodes
from lockd.linux.descriptors import open_descriptors, target_of

_ABANDONED_SECONDS: Final = 60
"""How long a repeated call has time to go on with the descriptor that the call before it had opened."""

_FIRST_DESCRIPTOR: Final = 3
_NO_FILES: Final = ("/proc/", "/dev/null", "/dev/pts/")


def unknown_files(known: Collection[int]) -> list[int]:
    """Return the open files that the next program is not told of otherwise.

    :param known: the descriptors that it is told of.
    :returns: further descriptors; they have to survive the exec.
    """
    unknown = []
    for fd in set(open_descriptors()).difference(known):
        with suppress(OSError):
            target = target_of(fd)
            if fd >= _FIRST_DESCRIPTOR and target.startswith("/") and not target.startswith(_NO_FILES):
                unknown.append(fd)
    return unknown


async def adopt_leftovers(slow_calls: SlowCalls, inodes: Inodes) -> None:
    """Claim the inherited files that the state does not tell of, and close them if nobody goes on with them.

    :param slow_calls: runs what may block.
    :param inodes: the registry of the process's locked files.
    """
    await slow_calls.run("/", _claim_leftovers, inodes, ABANDONED)
    await trio.sleep(_ABANDONED_SECONDS)
    await slow_calls.run("/", inodes.close_abandoned)


def claim_orphans(inodes: Inodes) -> None:
    """Keep the files that a program before has left open without a state that tells of them; for the start.

    There may be a lock on each, so nobody else can have it (Invariant 1).

    :param inodes: the registry of the process's locked files.
    """
    _claim_leftovers(inodes, ORPHANED)


def _claim_leftovers(inodes: Inodes, holder: object) -> None:
    for fd in open_descriptors():
        with suppress(OSError):
            if fd < _FIRST_DESCRIPTOR or not os.get_inheritable(fd):
                continue
            target = target_of(fd)
            # The process at the other end of a socket must not wait for ever. Closing a socket ends no lock, nor does
            # closing what was opened with O_PATH.
            if target.startswith("socket:") or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
                os.close(fd)
            elif target.startswith("/"):
                os.set_inheritable(fd, False)
                with suppress(Claimed):
                    inodes.adopt(fd, holder)
