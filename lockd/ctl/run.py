"""``lockctl run``: a command that holds the locks of disks for as long as it lives."""

import argparse
import fcntl
import os
import shutil
import signal
from contextlib import suppress
from typing import Final

from lockd.ctl import taking
from lockd.ctl.command import Commands, add_command
from lockd.ctl.exits import Exit, Failure

_DESCRIPTOR_MIN: Final = 100

_EXAMPLE: Final = """\
example:
  lockctl run vm1.qcow2 -- qemu-img check vm1.qcow2
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: where commands are added.
    """
    parser = add_command(
        commands,
        "run",
        run,
        summary="hold the locks of disks for as long as a command runs",
        description="Take the locks of disks and become the command. It inherits the connection that holds "
        "them, so they end when it ends, however that comes about. A command that closes descriptors which it "
        "does not know is killed, as a guest that loses its locks would be.",
        usage="lockctl run [-h] [--shared] [--wait SECONDS] DISK... -- COMMAND...",
        epilog=_EXAMPLE,
    )
    taking.add_arguments(parser)
    parser.add_argument("disks", nargs="+", metavar="DISK", help="path of a disk, as in the guest's XML")


def run(options: argparse.Namespace) -> Exit:
    """Take the locks and become the command; it returns only where that fails."""
    command: list[str] = options.command
    if not command:
        raise Failure("a command is missing: lockctl run DISK... -- COMMAND...", Exit.USAGE)
    program = shutil.which(command[0])
    if program is None:
        raise Failure(f"{command[0]}: there is no such command", Exit.NO_COMMAND)
    disks = taking.find_disks(options.disks)
    connection = taking.take(disks, os.path.basename(command[0]), shared=options.shared, wait=options.wait)
    # As libvirt leaves it to a guest: nothing in the command can give the locks away.
    connection.restrict()
    _move_out_of_the_way(connection.detach())
    # Python ignores these, and what is ignored stays so through an exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(program, command)
    except OSError as error:
        raise Failure(f"{program}: {error.strerror}", Exit.NO_EXEC) from None


def _move_out_of_the_way(descriptor: int) -> None:
    """Give a descriptor a number that no script uses for its own: ``exec 3<file`` would close it."""
    with suppress(OSError):  # EINVAL: the limit of descriptors is below that
        fcntl.fcntl(descriptor, fcntl.F_DUPFD, _DESCRIPTOR_MIN)
        os.close(descriptor)
