"""``lockctl release --force``: release a resource whose owner is gone or unknown."""

import argparse
import os
from typing import Any, Final

from lockd.client.errors import NotHeld, Refused
from lockd.client.plugin_config import read_plugin_config
from lockd.client.status import StatusConnection
from lockd.ctl.command import Commands, add_command
from lockd.ctl.disk_argument import find_disk
from lockd.ctl.exits import Exit, Failure
from lockd.linux.printable import printable

_EXAMPLE: Final = """\
example:
  lockctl release --force /var/lib/libvirt/images/vm1.qcow2
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: the commands of the parser.
    """
    parser = add_command(
        commands,
        "release",
        run,
        summary="release a lock whose owner is gone",
        description="Release a lock whose owner is gone or unknown. The daemon refuses this while the owner "
        "is alive on this host, and logs each release.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("--force", action="store_true", help="confirm the release; required")
    parser.add_argument(
        "resource",
        metavar="RESOURCE",
        help="a disk, a locked file, or the name of a resource as status shows it",
    )


def run(options: argparse.Namespace) -> Exit:
    """Release a resource by force.

    :param options: the parsed command line.
    :returns: the exit status.
    :raises Failure: --force is missing, nobody holds the resource, or the daemon refuses.
    :raises ClientError: no daemon runs, it is not lockd, or it does not answer.
    """
    if not options.force:
        raise Failure(
            "release takes a lock from its owner: add --force if you are sure that the owner is gone",
            Exit.USAGE,
        )
    with StatusConnection.connect() as connection:
        lock = _find(connection, options.resource)
        try:
            connection.release(lock["lockspace"], lock["resource"])
        except NotHeld:
            raise Failure(f"nobody holds {options.resource}", Exit.NO) from None
        except Refused as error:
            # str2 is the daemon's own text, without libvirt's name for the kind of error.
            raise Failure(error.reply.str2 or str(error)) from None
    gone = ", ".join(map(_name, lock["owners"]))
    print(printable(f"released {options.resource}, which {gone} held"))
    return Exit.DONE


def _name(owner: dict[str, Any]) -> str:
    """Return the pid of an owner; where that is not known on this host, it is the one that the client has registered."""
    return (
        f"pid {owner['number']} of another pid namespace" if owner["pid"] is None else f"pid {owner['pid']}"
    )


def _find(connection: StatusConnection, argument: str) -> dict[str, Any]:
    """Find the lock that the user means; return what the daemon says of it."""
    disk = find_disk(argument, read_plugin_config())
    locks = list(connection.locks())
    wanted = {resource[:2] for resource in disk.resources}
    for match in (
        [lock for lock in locks if (lock["lockspace"], lock["resource"]) in wanted],
        [lock for lock in locks if lock["path"] == os.path.abspath(argument)],
        [lock for lock in locks if lock["resource"] == argument],
    ):
        if len(match) == 1:
            return match[0]
        if match:
            places = ", ".join(lock["lockspace"] or "no lockspace" for lock in match)
            raise Failure(f"{argument} is held in several lockspaces ({places}): name the locked file")
    raise Failure(f"nobody holds {argument}", Exit.NO)
