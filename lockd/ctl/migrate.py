"""``lockctl migrate --check``: check whether lockd and virtlockd can replace each other while guests run."""

import argparse
from typing import Final

from lockd.ctl.check import print_findings
from lockd.ctl.command import Commands, add_command
from lockd.ctl.exits import Exit
from lockd.ctl.migration import findings

_EXAMPLE: Final = """\
example:
  lockctl migrate --check
  lockctl migrate --check --to /usr/local/sbin/virtlockd && systemctl reload virtlockd

The exit status is 0 if nothing FAILs, otherwise 1. Nothing is changed. See docs/migration.md.
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: the commands of the parser.
    """
    parser = add_command(
        commands,
        "migrate",
        run,
        summary="check whether this host can change to or from virtlockd while guests run",
        description="Check whether the running lock daemon could be replaced now, while guests run, by the "
        "program at the path from which the daemon was started: virtlockd by lockd, lockd by virtlockd, or "
        "either by a new version. To replace the daemon, send it SIGUSR1 (systemctl reload virtlockd).",
        epilog=_EXAMPLE,
    )
    parser.add_argument("--check", action="store_true", required=True, help="only check; required")
    parser.add_argument(
        "--to", metavar="PROGRAM", help="check this program, which you are going to put at that path"
    )
    parser.add_argument("-J", "--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> Exit:
    """Run all checks, and print the findings.

    :param options: the parsed command line.
    :returns: the exit status: NO if a check FAILs, otherwise DONE.
    :raises Failure: this user may not inspect the daemon.
    :raises ClientError: no daemon runs, or it does not answer.
    """
    return print_findings(findings(options.to), json_wanted=options.json)
