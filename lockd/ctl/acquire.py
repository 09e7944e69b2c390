"""``lockctl acquire``: locks for a shell script, held until it lets go."""

import argparse
import os
import select
import signal
import sys
from typing import Any, Final, NoReturn

from lockd.client.errors import ConnectionLost
from lockd.ctl import taking
from lockd.ctl.command import Commands, add_command
from lockd.ctl.exits import Exit

_OWNER: Final = "lockctl acquire"
_DISCARDED_BYTES: Final = 65536

_EXAMPLE: Final = """\
example, for bash:
  coproc lockctl acquire vm1.qcow2
  read -r held <&"${COPROC[0]}" || exit 1
  qemu-img check vm1.qcow2
  kill "$COPROC_PID"
"""


class _Signalled(Exception):
    """A signal asks to let go."""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: where commands are added.
    """
    parser = add_command(
        commands,
        "acquire",
        run,
        summary="hold the locks of disks until standard input ends, or a signal comes",
        description="Take the locks of disks, print a line that says so, and hold them until standard input "
        "ends or SIGTERM, SIGINT or SIGHUP comes.",
        epilog=_EXAMPLE,
    )
    taking.add_arguments(parser)
    parser.add_argument("disks", nargs="+", metavar="DISK", help="path of a disk, as in the guest's XML")


def run(options: argparse.Namespace) -> Exit:
    """Take the locks, and hold them until told to let go."""
    disks = taking.find_disks(options.disks)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _raise_signalled)
    try:
        with taking.take(disks, _OWNER, shared=options.shared, wait=options.wait) as connection:
            print("held", flush=True)
            _wait_for_end(sys.stdin.fileno(), connection.fileno())
    except _Signalled:
        pass
    return Exit.DONE


def _raise_signalled(_number: int, _frame: Any) -> NoReturn:
    # A second one must not disturb the release.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise _Signalled


def _wait_for_end(standard_input: int, daemon: int) -> None:
    """Return when standard input ends.

    :raises ConnectionLost: the daemon is gone, and the locks with it.
    """
    poll = select.poll()
    poll.register(standard_input, select.POLLIN)
    poll.register(daemon, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if daemon in ready:
            raise ConnectionLost("the daemon ended, and the locks with it")
        if not os.read(standard_input, _DISCARDED_BYTES):
            return
