"""``lockctl check``: check the set-up of this host."""

import argparse
import sys
from collections.abc import Iterable
from typing import Any, Final

from lockd.ctl import terminal
from lockd.ctl.command import Commands, add_command
from lockd.ctl.exits import Exit
from lockd.ctl.findings import FAIL, HASH_SUBJECT, Finding, findings
from lockd.linux.printable import printable

_EXAMPLE: Final = """\
example:
  lockctl check
  for host in alpha beta; do ssh $host lockctl check --json; done | jq -r .configuration_hash | uniq

The exit status is 0 if nothing FAILs, otherwise 1.
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: the commands of the parser.
    """
    parser = add_command(
        commands,
        "check",
        run,
        summary="check the set-up of this host",
        description="Check the set-up of this host: the daemon and its limits, the configuration, which must "
        "be the same on all hosts that share disks, and for each lockspace whether its locks work and reach "
        "other hosts.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("-J", "--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> Exit:
    """Run all checks, and print the findings.

    :param options: the parsed command line.
    :returns: the exit status: NO if a check FAILs, otherwise DONE.
    """
    return print_findings(findings(), json_wanted=options.json)


def print_findings(findings: Iterable[Finding], *, json_wanted: bool) -> Exit:
    """Print each finding as soon as it is known, or all findings at the end as JSON.

    :param findings: the findings. Iterating runs the checks.
    :param json_wanted: whether to print JSON.
    :returns: the exit status: NO if a finding is FAIL, otherwise DONE.
    """
    failed = False
    found = []
    for finding in findings:
        failed = failed or finding.result == FAIL
        found.append(finding)
        if not json_wanted:
            print(_line(finding), flush=True)
    if json_wanted:
        shared = next((finding.detail for finding in found if finding.subject == HASH_SUBJECT), None)
        facts: dict[str, Any] = {"findings": [finding._asdict() for finding in found]}
        if shared is not None:
            facts = {"configuration_hash": shared, **facts}
        terminal.print_json(facts)
    return Exit.NO if failed else Exit.DONE


def _line(finding: Finding) -> str:
    line = printable(f"{finding.result} {finding.subject}: {finding.detail}")
    return terminal.alarming(line) if finding.result == FAIL and terminal.has_colour(sys.stdout) else line
