"""Taking the locks of disks: all of them, or none."""

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` and ``acquire`` have in common."""
    parser.add_argument("--shared", action="store_true", help="share the locks with others who share them")
    parser.add_argument(
        "--wait", type=_seconds, default=0.0, metavar="SECONDS", help="wait so long for whoever holds one"
    )


def find_disks(arguments: list[str]) -> list[Disk]:
    """Return the disks of the command line, those that are one lock once, in an order that is the same for all.

    :raises ClientError: a disk's resource cannot be found out.
    """
    config = read_plugin_config()
    by_resource = {disk.resource: disk for disk in (find_disk(argument, config) for argument in arguments)}
    return [by_resource[resource] for resource in sorted(by_resource)]


def take(disks: list[Disk], owner: str, *, shared: bool, wait: float) -> LockConnection:
    """Return a connection that holds the locks of all disks for this process.

    While it waits it holds none, so that two who wait for each other's disks both get them.

    :param owner: what others are told who holds them.
    :param wait: seconds to wait for a lock that is held.
    :raises Failure: one is held, or cannot be taken.
    :raises ClientError: there is no daemon, or it does not answer.
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
    """Take all locks; or none, and return who holds one."""
    taken: list[Resource] = []
    for disk in disks:
        try:
            connection.acquire(disk.resource, shared=shared)
        except Refused as error:
            for resource in taken:
                with suppress(Refused):
                    connection.release(resource)
            if isinstance(error, Busy):
                return f"{disk.path} is locked by {error.holder or 'somebody: lockctl who may tell'}"
            raise Failure(f"{disk.path}: {error}") from None
        taken.append(disk.resource)
    return None


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if 0 <= seconds < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds")
