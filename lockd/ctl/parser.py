"""lockctl's command line."""

import argparse

from lockd.ctl import acquire, clean, release, resource, run, status, who


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; its result has ``run``, which takes that result and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="lockctl",
        description="See, explain, take and clean up locks on disks.",
        epilog="See lockctl(1).",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (status, who, resource, run, acquire, release, clean):
        module.add_parser(commands)
    return parser
