"""Leftovers: open files that are not in the state, before and after an exec.

A worker thread may open a file just before the program is replaced. Closing this descriptor could end a lock
on the same inode (Invariant 1), and could block. So the next program inherits it, and claims the inode.
"""

import fcntl
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from lockd.daemon.slow_calls import SlowCalls
from lockd.engines.files.claims import ABANDONED, ORPHANED, Claimed
from lockd.engines.files.inodes import Inodes
from lockd.linux.block_devices import no_file
from lockd.linux.descriptors import open_descriptors, target_of
from lockd.linux.file_identity import device_queue
from lockd.linux.proc_locks import descriptor_locks
from lockd.linux.shortages import SHORTAGES

_logger = logging.getLogger(__name__)

_ABANDONED_SECONDS: Final = 60
"""For how many seconds leftovers stay open. If the call that opened one is repeated, it uses the same
descriptor."""

_PAUSE_SECONDS: Final = 1.0

_FIRST_DESCRIPTOR: Final = 3
_NO_FILES: Final = ("/proc/", "/dev/null", "/dev/pts/")
"""Open files whose paths begin with one of these are not passed to the next program."""


def unknown_files(known: Collection[int]) -> list[int]:
    """Return the descriptors of open files that are not in the state.

    :param known: the descriptors that are in the state.
    :returns: the other descriptors. The next program has to inherit them.
    :raises OSError: they cannot be listed now, as descriptors or memory have run out.
    """
    unknown = []
    for fd in set(open_descriptors()).difference(known):
        try:
            target = target_of(fd)
        except FileNotFoundError:
            continue  # it was that of the listing
        if fd >= _FIRST_DESCRIPTOR and target.startswith("/") and not target.startswith(_NO_FILES):
            unknown.append(fd)
    return unknown


async def adopt_leftovers(slow_calls: SlowCalls, inodes: Inodes) -> None:
    """Claim the inherited files that are not in the state, and later close those that no call uses.

    They are closed after ``_ABANDONED_SECONDS``. Until then, the next program repeats the calls that the
    upgrade interrupted, and these may use them.

    :param slow_calls: runs work that may block.
    :param inodes: the registry of inodes. All locks of the state are claimed in it.
    """
    await _persist(partial(slow_calls.run_surely, "/", _claim_leftovers, inodes, ABANDONED, no_file))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(locate_devices, slow_calls, inodes)
        await trio.sleep(_ABANDONED_SECONDS)
        await slow_calls.run_surely("/", inodes.close_abandoned)


async def locate_devices(slow_calls: SlowCalls, inodes: Inodes) -> None:
    """Find out where the data of claimed block devices are, if neither the state nor sysfs tells all of it.

    The file of a loop device may be on a file server that hangs, so each device is asked for in a queue of its own.

    :param slow_calls: runs work that may block.
    :param inodes: the registry of inodes.
    """
    async with trio.open_nursery() as nursery:
        for claim in inodes.to_locate():
            queue = device_queue(claim.identity)
            nursery.start_soon(_persist, partial(slow_calls.run_surely, queue, inodes.locate, claim))


async def claim_orphans(inodes: Inodes, may_look_at: Callable[[str], bool]) -> None:
    """Claim the files that an earlier program in this process left open, if it left no state.

    This is for the start of the daemon. There may be a lock on each of these files. They stay open, and no
    client can lock them (Invariant 1), nor a device that has the same data. ``locate_devices`` does the rest.
    Those of which the kernel lists a lock are logged.

    :param inodes: the registry of inodes.
    :param may_look_at: returns whether the file of a loop device may be looked at, as that may block.
    """

    async def claim() -> None:
        _claim_leftovers(inodes, ORPHANED, may_look_at)

    await _persist(claim)


async def _persist(function: Callable[[], Awaitable[None]]) -> None:
    """Call a function, and call it again after a pause as long as descriptors or memory have run out."""
    while True:
        try:
            await function()
            return
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
        await trio.sleep(_PAUSE_SECONDS)


def _claim_leftovers(inodes: Inodes, holder: object, may_look_at: Callable[[str], bool]) -> None:
    for fd in open_descriptors():
        with suppress(OSError):
            if fd < _FIRST_DESCRIPTOR or not os.get_inheritable(fd):
                continue
            target = target_of(fd)
            # Sockets are closed, so that the process at the other end does not wait for ever. Closing a
            # socket, or a descriptor that was opened with O_PATH, ends no lock.
            if target.startswith("socket:") or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
                os.close(fd)
            elif target.startswith("/"):
                os.set_inheritable(fd, False)
                with suppress(Claimed):
                    inodes.adopt(fd, holder, may_look_at=may_look_at)
                if holder is ORPHANED and descriptor_locks(os.getpid(), fd):
                    _logger.error(
                        "%s: its lock is kept, and nobody gets it: it is that of a daemon before this one, whose state is "
                        "lost; when the guests that use it have ended, restart the daemon",
                        target,
                    )
