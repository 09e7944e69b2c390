"""lockctl's command line."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from lockd import __version__

COMMANDS: Final = (
    "status",
    "who",
    "resource",
    "run",
    "acquire",
    "release",
    "clean",
    "check",
    "migrate",
    "metrics",
)
"""Each command is a module of this package, with ``add_parser`` and ``run``."""

_SEPARATOR: Final = "--"


def split_command(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return lockctl's own arguments, and for ``run`` those after the first ``--``, which are the command's."""
    if arguments[:1] != ["run"] or _SEPARATOR not in arguments:
        return arguments, []
    at = arguments.index(_SEPARATOR)
    return arguments[:at], arguments[at + 1 :]


def commands_for(arguments: Sequence[str]) -> Sequence[str]:
    """Return the commands that the parser of these arguments needs: the named one, or else all."""
    return [arguments[0]] if arguments and arguments[0] in COMMANDS else COMMANDS


def make_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser; its result has ``run``, which takes that result and returns the exit status.

    :param commands: those that it knows. Importing all takes longer than most of them run.
    """
    parser = argparse.ArgumentParser(
        prog="lockctl",
        description="See, explain, take and clean up locks on disks.",
        epilog="lockctl COMMAND --help tells more of a command, with an example. See lockctl(1).",
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"lockctl (lockd) {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in commands:
        import_module(f"lockd.ctl.{name}").add_parser(subparsers)
    return parser
