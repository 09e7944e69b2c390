"""``lockctl acquire``: hold the locks of disks for a shell script, until the script releases them."""

import argparse
import os
import select
import signal
import sys
from typing import Any, Final, NoReturn

from lockd.client.errors import ConnectionLost
from lockd.ctl import taking
from lockd.ctl.command import Commands, add_command
from lockd.ctl.exits import Exit, Failure

_OWNER_NAME: Final = "lockctl acquire"
_DISCARDED_BYTES: Final = 65536
"""Bytes of one read from standard input. The data is not used: only the end of the input matters."""

_EXAMPLE: Final = """\
example, for bash:
  coproc lockctl acquire vm1.qcow2
  read -r held <&"${COPROC[0]}" || exit 1
  qemu-img check vm1.qcow2
  kill "$COPROC_PID"
"""


class _Signalled(Exception):
    """A signal asks to release the locks and exit."""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: the commands of the parser.
    """
    parser = add_command(
        commands,
        "acquire",
        run,
        summary="hold the locks of disks until standard input ends or a signal arrives",
        description="Take the locks of disks, print a line that says so, and hold them until standard input "
        "ends or SIGTERM, SIGINT or SIGHUP arrives.",
        epilog=_EXAMPLE,
    )
    taking.add_arguments(parser)
    parser.add_argument("disks", nargs="+", metavar="DISK", help="path of a disk, as in the guest's XML")


def run(options: argparse.Namespace) -> Exit:
    """Take the locks, and hold them until standard input ends or a signal arrives.

    :param options: the parsed command line.
    :returns: the exit status.
    :raises Failure: a lock is held by somebody else or cannot be taken, or standard input cannot be read.
    :raises ClientError: no daemon runs, it does not answer, or it ended while the locks were held.
    """
    disks = taking.find_disks(options.disks)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _raise_signalled)
    try:
        with taking.take(disks, _OWNER_NAME, taking.how(options)) as connection:
            print("held", flush=True)
            _wait_for_end(sys.stdin.fileno(), connection.fileno())
    except _Signalled:
        pass
    return Exit.DONE


def _raise_signalled(_number: int, _frame: Any) -> NoReturn:
    # A second signal must not interrupt the release.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise _Signalled


def _wait_for_end(standard_input: int, daemon: int) -> None:
    """Wait until standard input ends.

    :param standard_input: its descriptor.
    :param daemon: the descriptor of the connection that holds the locks.
    :raises ConnectionLost: the daemon ended, and the locks with it.
    :raises Failure: standard input cannot be read.
    """
    poll = select.poll()
    poll.register(standard_input, select.POLLIN)
    poll.register(daemon, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if daemon in ready:
            raise ConnectionLost("the daemon ended, and the locks with it")
        try:
            if not os.read(standard_input, _DISCARDED_BYTES):
                return
        except OSError as error:
            raise Failure(
                f"standard input cannot be read: {error.strerror}; the locks are released"
            ) from None
