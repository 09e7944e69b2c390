"""``lockctl resource``: show the lock that libvirt takes for a disk."""

import argparse
from typing import Final

from lockd.client.plugin_config import read_plugin_config
from lockd.ctl.command import Commands, add_command
from lockd.ctl.disk_argument import add_disk_options, find_disk
from lockd.ctl.exits import Exit
from lockd.ctl.terminal import print_error, print_json
from lockd.linux.printable import printable

_EXAMPLE: Final = """\
example:
  lockctl resource /dev/vg0/vm1
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: the commands of the parser.
    """
    parser = add_command(
        commands,
        "resource",
        run,
        summary="show which lock libvirt takes for a disk",
        description="Show which lock libvirt takes for a disk: its lockspace and its name, "
        "according to qemu-lockd.conf. No daemon is needed, and the disk need not exist.",
        epilog=_EXAMPLE,
    )
    add_disk_options(parser)


def run(options: argparse.Namespace) -> Exit:
    """Print the resource of a disk.

    :param options: the parsed command line.
    :returns: the exit status.
    :raises ClientError: qemu-lockd.conf cannot be read, or the resource cannot be found out.
    """
    config = read_plugin_config()
    disk = find_disk(options.disk, config)
    resource = disk.resource
    if options.json:
        facts = {
            "disk": disk.path,
            "lockspace": resource.lockspace,
            "resource": resource.name,
            "path": resource.path,
            "autocreate": resource.autocreate,
        }
        print_json(facts)
    else:
        lockspace = resource.lockspace or "none: the file itself is locked"
        print(f"lockspace: {printable(lockspace)}")
        print(f"resource:  {printable(resource.name)}")
        print(f"file:      {printable(resource.path)}")
    if not config.auto_disk_leases:
        print_error("libvirt does not take this lock: auto_disk_leases is 0 in qemu-lockd.conf")
    return Exit.DONE
