"""Taking the locks of several disks: all of them, or none."""

import argparse
import math
import time
from contextlib import suppress
from typing import Final

from lockd.client.calls import this_process
from lockd.client.connection import LockConnection
from lockd.client.errors import Busy, Refused
from lockd.client.plugin_config import read_plugin_config
from lockd.client.resource import Resource
from lockd.ctl.disk_argument import Disk, find_disk
from lockd.ctl.exits import Exit, Failure

_RETRY_SECONDS: Final = 0.2
"""Time between two attempts to take the locks."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``run`` and ``acquire`` have in common.

    :param parser: the parser of the command.
    """
    parser.add_argument("--shared", action="store_true", help="take shared locks")
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="wait up to SECONDS for locks that are held",
    )


def find_disks(arguments: list[str]) -> list[Disk]:
    """Return the disks that arguments name.

    :param arguments: the paths of the disks.
    :returns: the disks, sorted by resource, so that all processes take locks in the same order. Of several
        disks with the same resource, one is returned.
    :raises ClientError: qemu-lockd.conf cannot be read, or the resource of a disk cannot be found out.
    """
    config = read_plugin_config()
    by_resource = {disk.resource: disk for disk in (find_disk(argument, config) for argument in arguments)}
    return [by_resource[resource] for resource in sorted(by_resource)]


def take(disks: list[Disk], owner: str, *, shared: bool, wait: float) -> LockConnection:
    """Take the locks of all disks for this process.

    While it waits, it holds none of the locks. So two processes that wait for each other's disks both get
    them.

    :param disks: the disks, from ``find_disks``.
    :param owner: the name of the owner, as others see it.
    :param shared: whether the locks are shared, rather than exclusive.
    :param wait: how long to wait for locks that others hold, in seconds; 0 tries once.
    :returns: the connection that holds the locks, to be closed by the caller.
    :raises Failure: a lock is held by somebody else, or cannot be taken.
    :raises ClientError: no daemon runs, or it does not answer.
    """
    deadline = time.monotonic() + wait
    connection = LockConnection.connect()
    try:
        connection.register(this_process(owner))
        for lockspace in dict.fromkeys(disk.resource.lockspace for disk in disks):
            connection.create_lockspace(lockspace)
        while True:
            busy = _take_once(connection, disks, shared=shared)
            if busy is None:
                return connection
            if time.monotonic() >= deadline:
                raise Failure(busy, Exit.BUSY)
            time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
    except BaseException:
        connection.close()
        raise


def _take_once(connection: LockConnection, disks: list[Disk], *, shared: bool) -> str | None:
    """Take all locks and return None; or take none, and return a message that says who holds one of them."""
    taken: list[Resource] = []
    for disk in disks:
        try:
            connection.acquire(disk.resource, shared=shared)
        except Refused as error:
            for resource in taken:
                with suppress(Refused):
                    connection.release(resource)
            if isinstance(error, Busy):
                return f"{disk.path} is locked by {error.holder or 'somebody: see lockctl who'}"
            raise Failure(f"{disk.path}: {error}") from None
        taken.append(disk.resource)
    return None


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if 0 <= seconds < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds")
