"""Adding a command to lockctl's command line."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

from lockd.ctl.exits import Exit

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The type of the result of ``ArgumentParser.add_subparsers``. argparse has no public name for it."""


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], Exit],
    *,
    summary: str,
    description: str,
    epilog: str,
    usage: str | None = None,
) -> argparse.ArgumentParser:
    """Add a command to lockctl.

    :param commands: the commands of the parser.
    :param name: the name of the command.
    :param run: runs the command and returns the exit status.
    :param summary: what the command does, in a few words, for the list of commands.
    :param description: what the command does, in sentences, for its own help.
    :param epilog: examples and other text for the end of its help. The text is not wrapped.
    :param usage: the usage line; None for the one that argparse makes from the options.
    :returns: the parser of the command, to which its options are added.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        usage=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser
