"""``lockctl lockspace``: list the lockspaces that the daemon knows, or make one known."""

import argparse
import os
from typing import Final

from lockd.client.connection import LockConnection
from lockd.client.errors import Refused
from lockd.client.status import StatusConnection
from lockd.ctl.command import Commands, add_command
from lockd.ctl.exits import Exit, Failure
from lockd.ctl.terminal import print_json
from lockd.linux.printable import printable

_EXAMPLE: Final = """\
example:
  lockctl lockspace add /srv/leases/guests
  lockctl lockspace list

A <lease> in a guest's XML needs a lockspace that the daemon knows: the path of its <target>, a
slash, and its <lockspace>. libvirt makes only those of qemu-lockd.conf. To have a lockspace after a
restart of the daemon, name it in virtlockd.conf:
  lockspaces = [ "/srv/leases/guests" ]
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its two actions and their options.

    :param commands: the commands of the parser.
    """
    parser = add_command(
        commands,
        "lockspace",
        run,
        summary="list the lockspaces, or add one",
        description="List the lockspaces that the daemon knows, or make lockspaces known to it. A lockspace is a "
        "directory of lease files.",
        epilog=_EXAMPLE,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    adding = actions.add_parser(
        "add",
        help="make lockspaces known, until the daemon ends",
        description="Make lockspaces known to the daemon until it ends. A directory that is missing is made, with "
        "mode 0700. A live upgrade keeps the lockspaces.",
        allow_abbrev=False,
    )
    adding.add_argument(
        "directories", nargs="+", metavar="DIR", help="path of the directory: TARGET/LOCKSPACE of a lease"
    )
    listing = actions.add_parser(
        "list",
        help="list the lockspaces that the daemon knows",
        description="List the lockspaces that the daemon knows, one in each line.",
        allow_abbrev=False,
    )
    listing.add_argument("-J", "--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> Exit:
    """Add or list lockspaces.

    :param options: the parsed command line.
    :returns: the exit status.
    :raises Failure: the daemon cannot make a lockspace.
    :raises ClientError: no daemon runs, it does not answer, or it is not lockd and cannot list.
    """
    if options.action == "add":
        _add(options.directories)
    else:
        _list(json_wanted=options.json)
    return Exit.DONE


def _add(directories: list[str]) -> None:
    with LockConnection.connect() as connection:
        for directory in directories:
            # The daemon knows a lockspace by its exact path, and libvirt asks for that of the XML.
            path = directory if directory.startswith("/") else os.path.abspath(directory)
            try:
                connection.create_lockspace(path)
            except Refused as error:
                raise Failure(f"{path}: {error}") from None


def _list(*, json_wanted: bool) -> None:
    with StatusConnection.connect() as connection:
        paths = list(connection.lockspaces())
    if json_wanted:
        print_json({"lockspaces": paths})
        return
    for path in paths:
        print(printable(path))
