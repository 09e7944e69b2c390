"""``lockctl run``: run a command that holds the locks of disks until it ends."""

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
"""The lowest number of the descriptor that the command inherits."""

_EXAMPLE: Final = """\
example:
  lockctl run vm1.qcow2 -- qemu-img check vm1.qcow2
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: the commands of the parser.
    """
    parser = add_command(
        commands,
        "run",
        run,
        summary="hold the locks of disks while a command runs",
        description="Take the locks of disks, and then execute the command in place of lockctl. The command "
        "inherits the connection that holds the locks, so the locks end when the command ends, however it "
        "ends. A command that closes descriptors that it does not know loses its locks. It is killed for "
        "that, as a guest would be.",
        usage="lockctl run [-h] [--shared] [--wait SECONDS] [--force] DISK... -- COMMAND...",
        epilog=_EXAMPLE,
    )
    taking.add_arguments(parser)
    parser.add_argument("disks", nargs="+", metavar="DISK", help="path of a disk, as in the guest's XML")


def run(options: argparse.Namespace) -> Exit:
    """Take the locks, and execute the command in place of lockctl.

    :param options: the parsed command line.
    :returns: never: this process becomes the command.
    :raises Failure: a lock is held by somebody else or cannot be taken, or the command cannot be executed.
    :raises ClientError: no daemon runs, or it does not answer.
    """
    command: list[str] = options.command
    if not command:
        raise Failure("a command is missing: lockctl run DISK... -- COMMAND...", Exit.USAGE)
    program = shutil.which(command[0])
    if program is None:
        raise Failure(f"{command[0]}: there is no such command", Exit.NO_COMMAND)
    disks = taking.find_disks(options.disks)
    connection = taking.take(disks, os.path.basename(command[0]), taking.how(options))
    # libvirt does the same for a guest: after this call, nothing in the command can release the locks.
    connection.restrict()
    _move_out_of_the_way(connection.detach())
    # Python ignores these signals, and a signal that is ignored stays ignored after exec (signal(7)).
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(program, command)
    except OSError as error:
        raise Failure(f"{program}: {error.strerror}", Exit.NO_EXEC) from None


def _move_out_of_the_way(descriptor: int) -> None:
    """Move a descriptor to a high number. ``exec 3<file`` in a script would close descriptor 3."""
    with suppress(OSError):  # EINVAL: the limit of open files is lower
        fcntl.fcntl(descriptor, fcntl.F_DUPFD, _DESCRIPTOR_MIN)
        os.close(descriptor)
