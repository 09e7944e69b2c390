"""How a command is added to lockctl's command line. Every command's module does it by this one function."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

from lockd.ctl.exits import Exit

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What ``ArgumentParser.add_subparsers`` returns. argparse has no public name for its type."""


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

    :param commands: where commands are added.
    :param name: the command's name.
    :param run: carries the command out, and returns its exit status.
    :param summary: what it does, in a few words, for the list of commands.
    :param description: what it does, in sentences, for its own help.
    :param epilog: examples and whatever else stands at the end of its help, as it is.
    :param usage: how it is called; None for what argparse makes of its options.
    :returns: its parser, for its options.
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
