"""``lockctl release --force``: end the holdings of an owner that is gone or unknown."""

import argparse
import os
from typing import Final

from lockd.client.errors import NotHeld, Refused
from lockd.client.plugin_config import read_plugin_config
from lockd.client.status import StatusConnection
from lockd.ctl import terminal
from lockd.ctl.command import Commands, add_command
from lockd.ctl.disk_argument import find_disk
from lockd.ctl.exits import Exit, Failure

_EXAMPLE: Final = """\
example:
  lockctl release --force /var/lib/libvirt/images/vm1.qcow2
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: where commands are added.
    """
    parser = add_command(
        commands,
        "release",
        run,
        summary="release what an owner holds that is gone",
        description="End the holdings of an owner that is gone or unknown. It is refused while the owner lives "
        "on this host, and logged by the daemon.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("--force", action="store_true", help="say that you mean it; needed")
    parser.add_argument(
        "resource", metavar="RESOURCE", help="a disk, a locked file, or a resource's name as status shows it"
    )


def run(options: argparse.Namespace) -> Exit:
    """Release a lock by force."""
    if not options.force:
        raise Failure(
            "release takes a lock from its owner: add --force where that owner is gone for sure", Exit.USAGE
        )
    with StatusConnection.connect() as connection:
        lockspace, name = _find(connection, options.resource)
        try:
            owners = connection.release(lockspace, name)
        except NotHeld:
            raise Failure(f"nobody holds {options.resource}", Exit.NO) from None
        except Refused as error:
            # Without libvirt's words for the kind of error.
            raise Failure(error.reply.str2 or str(error)) from None
    gone = ", ".join(f"pid {pid}" for pid in owners)
    print(terminal.printable(f"released {options.resource}, which {gone} held"))
    return Exit.DONE


def _find(connection: StatusConnection, argument: str) -> tuple[str, str]:
    """Return lockspace and name of the held resource that is meant."""
    disk = find_disk(argument, read_plugin_config())
    locks = [(lock["lockspace"], lock["resource"], lock["path"]) for lock in connection.locks()]
    wanted = {resource[:2] for resource in disk.resources}
    for match in (
        [lock[:2] for lock in locks if lock[:2] in wanted],
        [lock[:2] for lock in locks if lock[2] == os.path.abspath(argument)],
        [lock[:2] for lock in locks if lock[1] == argument],
    ):
        if len(match) == 1:
            return match[0]
        if match:
            places = ", ".join(lockspace or "no lockspace" for lockspace, _ in match)
            raise Failure(f"{argument} is held in several lockspaces ({places}): name the locked file")
    raise Failure(f"nobody holds {argument}", Exit.NO)
