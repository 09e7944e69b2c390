"""lockctl's command line."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from lockd import __version__
from lockd.linux.command_line import CommandLineParser

COMMANDS: Final = (
    "status",
    "who",
    "resource",
    "run",
    "acquire",
    "lockspace",
    "release",
    "clean",
    "check",
    "migrate",
    "metrics",
)
"""The commands. Each is a module of this package that has ``add_parser`` and ``run``."""

_SEPARATOR: Final = "--"
"""Separates the disks from the command in the arguments of ``lockctl run``."""


def split_command(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split the arguments of ``lockctl run`` at the first ``--``.

    :param arguments: the arguments of lockctl.
    :returns: the arguments of lockctl itself, and the command to run, which is empty if there is none.
    """
    if arguments[:1] != ["run"] or _SEPARATOR not in arguments:
        return arguments, []
    at = arguments.index(_SEPARATOR)
    return arguments[:at], arguments[at + 1 :]


def commands_for(arguments: Sequence[str]) -> Sequence[str]:
    """Return the commands that the parser needs for some arguments.

    :param arguments: the arguments of lockctl.
    :returns: the command that the first argument names, or all commands if it names none.
    """
    return [arguments[0]] if arguments and arguments[0] in COMMANDS else COMMANDS


def make_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Make the parser of lockctl's command line.

    :param commands: the commands that the parser knows. Importing all modules takes longer than most commands
        run.
    :returns: the parser. The ``run`` of its result is a function that takes the result and returns the exit
        status.
    """
    parser = CommandLineParser(
        prog="lockctl",
        description="Show, explain, take and clean up locks on disks.",
        epilog="lockctl COMMAND --help explains a command and gives an example. See also lockctl(1).",
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"lockctl (lockd) {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in commands:
        import_module(f"lockd.ctl.{name}").add_parser(subparsers)
    return parser
