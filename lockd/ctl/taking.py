"""Taking the locks of several disks: all of them, or none."""

import argparse
import math
import os
import time
from contextlib import suppress
from typing import Final, NamedTuple

from lockd.client.calls import this_process
from lockd.client.connection import LockConnection
from lockd.client.errors import Busy, Refused, Unavailable, UnknownProgram
from lockd.client.plugin_config import read_plugin_config
from lockd.client.resource import Resource
from lockd.client.status import StatusConnection
from lockd.ctl.disk_argument import Disk, find_disk
from lockd.ctl.exits import Exit, Failure
from lockd.ctl.holdings import daemon_pid
from lockd.ctl.processes import Opener, describe, is_qemu, openers_of
from lockd.linux.processes import command_name

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
    parser.add_argument(
        "--force",
        action="store_true",
        help="take the locks even if a guest without the lock, or a program that writes, has a disk open",
    )


class How(NamedTuple):
    """How to take locks.

    :ivar shared: whether the locks are shared, rather than exclusive.
    :ivar wait: how long to wait for locks that others hold, in seconds; 0 tries once.
    :ivar force: whether to take the locks although a process that does not hold them has a disk open.
    """

    shared: bool
    wait: float
    force: bool


def how(options: argparse.Namespace) -> How:
    """Return what the options of ``add_arguments`` say.

    :param options: the parsed command line.
    :returns: how to take the locks.
    """
    return How(options.shared, options.wait, options.force)


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


def take(disks: list[Disk], owner: str, how: How) -> LockConnection:
    """Take the locks of all disks for this process.

    While it waits, it holds none of the locks. So two processes that wait for each other's disks both get
    them.

    :param disks: the disks, from ``find_disks``.
    :param owner: the name of the owner, as others see it.
    :param how: how to take the locks.
    :returns: the connection that holds the locks, to be closed by the caller.
    :raises Failure: a lock is held by somebody else or cannot be taken, or a disk is in use without its lock.
    :raises ClientError: no daemon runs, or it does not answer.
    """
    deadline = time.monotonic() + how.wait
    connection = LockConnection.connect()
    try:
        connection.register(this_process(owner))
        for lockspace in dict.fromkeys(disk.resource.lockspace for disk in disks):
            connection.create_lockspace(lockspace)
        in_use = None
        while True:
            # A guest that is resumed must find its lock free, as long as this process only waits.
            in_use = in_use and _in_use(disks, how)
            busy = in_use or _take_once(connection, disks, shared=how.shared)
            if busy is None:
                # The locks are taken first: from now on, no guest opens the disks.
                busy = in_use = None if how.force else _in_use(disks, how)
                if busy is None:
                    return connection
                _release(connection, [disk.resource for disk in disks])
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
            _release(connection, taken)
            if isinstance(error, Busy):
                return f"{disk.path} is locked by {error.holder or 'somebody: see lockctl who'}"
            raise Failure(f"{disk.path}: {error}") from None
        taken.append(disk.resource)
    return None


def _release(connection: LockConnection, resources: list[Resource]) -> None:
    for resource in resources:
        with suppress(Refused):
            connection.release(resource)


def _in_use(disks: list[Disk], how: How) -> str | None:
    """Return a message about processes that use a disk without holding its lock, or None if there are none.

    libvirt releases the locks of a paused guest, and takes none for the backing files of a running one. Both
    stay open in QEMU. Another writer would destroy what the guest has on the disk.
    """
    for disk in disks:
        try:
            openers = _without_daemon(openers_of(os.stat(disk.path)))
        except OSError:
            continue
        if how.shared:
            openers = _without_owners(
                disk, [opener for opener in openers if opener.writes and is_qemu(opener.pid)]
            )
        # QEMU reads a disk that it has open for reading all the time; others, such as a backup, may be read-only.
        for opener in openers:
            if opener.writes or is_qemu(opener.pid):
                way = "writing" if opener.writes else "reading"
                return (
                    f"{disk.path} is open for {way} in {describe(opener.pid)}, which does not hold its lock, as a "
                    "paused guest or one with this backing file does not; --force takes the lock nevertheless"
                )
    return None


def _without_daemon(openers: list[Opener]) -> list[Opener]:
    """Return the openers other than the lock daemon, which has the disk open if the disk itself is locked."""
    if not openers:
        return []
    daemon = daemon_pid()
    if daemon is None:
        # It has no admin socket, and another pid file than the usual one.
        return [opener for opener in openers if command_name(opener.pid) != "virtlockd"]
    return [opener for opener in openers if opener.pid != daemon]


def _without_owners(disk: Disk, openers: list[Opener]) -> list[Opener]:
    """Return those of the openers that do not share the lock on a disk; none if virtlockd has the lock."""
    if not openers:
        return []
    try:
        with StatusConnection.connect() as connection:
            lock = connection.find(disk.resource.lockspace, disk.resource.name)
    except (UnknownProgram, Unavailable):
        return []
    owners = set() if lock is None else {owner["pid"] for owner in lock["owners"]}
    return [opener for opener in openers if opener.pid not in owners]


def _seconds(text: str) -> float:
    with suppress(ValueError):
        seconds = float(text)
        if 0 <= seconds < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds")
