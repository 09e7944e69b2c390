"""``lockctl check``: whether this host is set up right."""

import argparse
import sys
from collections.abc import Iterable
from typing import Any, Final

from lockd.ctl import terminal
from lockd.ctl.command import Commands, add_command
from lockd.ctl.exits import Exit
from lockd.ctl.findings import FAIL, HASH_SUBJECT, Finding, findings

_EXAMPLE: Final = """\
example:
  lockctl check
  for host in alpha beta; do ssh $host lockctl check --json; done | jq -r .configuration_hash | uniq

It ends with 0 where nothing FAILs, and with 1 otherwise.
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: where commands are added.
    """
    parser = add_command(
        commands,
        "check",
        run,
        summary="check this host's set-up",
        description="Check this host's set-up: the daemon, its limits, the configuration that all hosts have to "
        "share, and for each lockspace whether its locks work and reach other hosts.",
        epilog=_EXAMPLE,
    )
    parser.add_argument("-J", "--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> Exit:
    """Check everything, and print what was found."""
    return print_findings(findings(), json_wanted=options.json)


def print_findings(findings: Iterable[Finding], *, json_wanted: bool) -> Exit:
    """Print findings as they are made, or all at the end as JSON; return whether one of them FAILs."""
    failed = False
    found = []
    for finding in findings:
        failed = failed or finding.result == FAIL
        found.append(finding)
        if not json_wanted:
            print(_line(finding), flush=True)
    if json_wanted:
        # Imported late: the text does without.
        import json

        shared = next((finding.detail for finding in found if finding.subject == HASH_SUBJECT), None)
        facts: dict[str, Any] = {"findings": [finding._asdict() for finding in found]}
        if shared is not None:
            facts = {"configuration_hash": shared, **facts}
        print(json.dumps(facts, indent=3))
    return Exit.NO if failed else Exit.DONE


def _line(finding: Finding) -> str:
    line = terminal.printable(f"{finding.result} {finding.subject}: {finding.detail}")
    return terminal.alarming(line) if finding.result == FAIL and terminal.has_colour(sys.stdout) else line
