"""``lockctl migrate --check``: whether a live host could move between virtlockd and lockd."""

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

It ends with 0 where nothing FAILs, and with 1 otherwise. It changes nothing; docs/migration.md says what to do.
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: where commands are added.
    """
    parser = add_command(
        commands,
        "migrate",
        run,
        summary="check whether a live host can move to or from virtlockd",
        description="Say whether the running lock daemon could be replaced now, under running guests, by the program "
        "that stands where its own was started from: lockd by virtlockd, virtlockd by lockd, or either by a new "
        "version. To replace it is up to SIGUSR1 (systemctl reload virtlockd).",
        epilog=_EXAMPLE,
    )
    parser.add_argument("--check", action="store_true", required=True, help="only check; needed")
    parser.add_argument("--to", metavar="PROGRAM", help="check the program that is going to be put there")
    parser.add_argument("-J", "--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> Exit:
    """Check everything, and print what was found."""
    return print_findings(findings(options.to), json_wanted=options.json)
