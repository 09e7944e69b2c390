"""``lockctl status``: list the locks, their owners, and whether the kernel agrees."""

import argparse
import sys
from typing import Final

from lockd.client.errors import ClientError
from lockd.client.plugin_config import read_plugin_config
from lockd.ctl import terminal
from lockd.ctl.columns import COLUMNS, DEFAULT, Column, columns_named
from lockd.ctl.command import Commands, add_command
from lockd.ctl.disk_argument import find_disk
from lockd.ctl.exits import Exit, Failure
from lockd.ctl.holdings import Holding, doubts_of, overview
from lockd.ctl.terminal import Table
from lockd.linux.printable import printable

_WATCH_SECONDS: Final = 2.0
"""Time between two updates with --watch."""

_YIELDING: Final = {"PATH": 24, "NAME": 16, "LOCKSPACE": 16, "SLOW": 12, "RESOURCE": 24, "OWNER": 8}
"""The columns that may be cut to fit a terminal, in the order of cutting, and their smallest widths."""

_PATHS: Final = {"RESOURCE", "PATH", "LOCKSPACE", "SLOW"}
"""The columns whose text is cut at its beginning."""

_EXAMPLES: Final = """\
examples:
  lockctl status
  lockctl status /var/lib/libvirt/images/vm1.qcow2
  lockctl status --output +UUID,KERNEL --watch
  lockctl status --json | jq '.locks[] | select(.kernel == "no")'
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: the commands of the parser.
    """
    names = "\n".join(f"  {column.name:11} {column.help}" for column in COLUMNS.values())
    parser = add_command(
        commands,
        "status",
        run,
        summary="list the locks that are held",
        description="List the locks that the daemon of this user holds, on all disks or on the given ones.",
        epilog=f"columns:\n{names}\n\n{_EXAMPLES}",
    )
    parser.add_argument("disks", nargs="*", metavar="DISK", help="list only the locks on these disks")
    parser.add_argument("-J", "--json", action="store_true", help="print JSON, by default with all columns")
    parser.add_argument("-n", "--noheadings", action="store_true", help="print no headings")
    parser.add_argument(
        "-o",
        "--output",
        metavar="LIST",
        help=f"print these columns; +LIST adds to {','.join(DEFAULT)}",
    )
    parser.add_argument("--output-all", action="store_true", help="print all columns")
    parser.add_argument(
        "-p", "--pid", type=int, metavar="PID", help="list only the locks of the owner with this process id"
    )
    parser.add_argument(
        "-r",
        "--raw",
        action="store_true",
        help="separate cells with one blank, and print a blank in a cell as \\x20",
    )
    parser.add_argument(
        "-u", "--notruncate", action="store_true", help="do not shorten the output to fit the terminal"
    )
    parser.add_argument(
        "--images", metavar="DIR", help="find the disks of lease files by the names of the files below DIR"
    )
    parser.add_argument("--watch", action="store_true", help="keep the list up to date on the terminal")


def run(options: argparse.Namespace) -> Exit:
    """List the locks.

    :param options: the parsed command line.
    :returns: the exit status: NO if a lock is in doubt or the kernel does not agree on it, otherwise DONE.
    :raises Failure: the options are wrong, or the locks cannot be read.
    :raises ClientError: no daemon runs, or it does not answer.
    """
    columns = _columns(options)
    if not options.watch:
        return _print_once(options, columns)
    if options.json or options.raw or not sys.stdout.isatty():
        raise Failure("--watch needs a terminal, and does not go with --json or --raw", Exit.USAGE)
    # Imported here because only --watch needs it, and importing it takes time.
    from lockd.ctl.watch import watch

    watch(lambda: _screen(options, columns), _WATCH_SECONDS)
    return Exit.DONE


def _columns(options: argparse.Namespace) -> list[Column]:
    if options.output_all or (options.json and options.output is None):
        return list(COLUMNS.values())
    try:
        return columns_named(options.output or ",".join(DEFAULT))
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


def _print_once(options: argparse.Namespace, columns: list[Column]) -> Exit:
    found = overview()
    holdings = _chosen(found.holdings, options)
    if options.json:
        rows = [{column.name.lower(): column.value(holding) for column in columns} for holding in holdings]
        terminal.print_json({"locks": rows})
    else:
        limit = terminal.size(sys.stdout)[0] if sys.stdout.isatty() else None
        for line in _lines(holdings, columns, options, limit):
            print(line)
    sys.stdout.flush()
    if found.note is not None:
        terminal.print_error(found.note)
    return _verdict(holdings)


def _verdict(holdings: list[Holding]) -> Exit:
    doubts = doubts_of(holdings)
    for path, doubt in doubts.items():
        terminal.print_error(f"{path} is in doubt: {doubt}")
    wrong = sum(holding.disagrees for holding in holdings)
    if not wrong:
        return Exit.NO if doubts else Exit.DONE
    locks = "one lock" if wrong == 1 else f"{wrong} locks"
    terminal.print_error(f"the kernel does not agree on {locks}: see lockctl status --output +KERNEL,PATH")
    return Exit.NO


def _screen(options: argparse.Namespace, columns: list[Column]) -> list[str]:
    """Return the lines that --watch shows."""
    limit = None if options.notruncate else terminal.size(sys.stdout)[0]
    try:
        found = overview()
        lines = _lines(_chosen(found.holdings, options), columns, options, limit)
    except (ClientError, Failure) as error:
        return [printable(str(error))]
    return lines if found.note is None else [*lines, found.note]


def _chosen(holdings: list[Holding], options: argparse.Namespace) -> list[Holding]:
    """Return the holdings that the options select, with the disks that they protect if those are known."""
    holdings = _with_disks(holdings, options)
    if options.pid is not None:
        holdings = [holding for holding in holdings if holding.pid == options.pid]
    if options.disks:
        config = read_plugin_config()
        disks = [find_disk(disk, config) for disk in options.disks]
        holdings = [holding for holding in holdings if any(disk.is_held_by(holding) for disk in disks)]
    return holdings


def _with_disks(holdings: list[Holding], options: argparse.Namespace) -> list[Holding]:
    unknown = [holding for holding in holdings if holding.disk is None]
    if not unknown:
        return holdings
    # Imported here because only lease files need it, and importing it takes time.
    from lockd.ctl.disks import disks_of_holdings

    known = disks_of_holdings(unknown, options.images)
    return [holding._replace(disk=holding.disk or known.get(holding.path)) for holding in holdings]


def _lines(
    holdings: list[Holding], columns: list[Column], options: argparse.Namespace, limit: int | None
) -> list[str]:
    if options.raw:
        headings = [] if options.noheadings else [" ".join(column.name for column in columns)]
        return headings + [" ".join(_raw(column, holding) for column in columns) for holding in holdings]
    table = Table(
        [column.name for column in columns],
        {column.name for column in columns if column.right},
        _YIELDING,
        _PATHS,
    )
    rows = [[_cell(column, holding) for column in columns] for holding in holdings]
    lines = table.lines(
        rows,
        None if options.notruncate else limit,
        terminal.ellipsis(sys.stdout),
        headings=not options.noheadings,
    )
    if terminal.has_colour(sys.stdout):
        first = len(lines) - len(holdings)
        for number, holding in enumerate(holdings, start=first):
            if _is_wrong(holding) or holding.fencing is not None:
                lines[number] = terminal.alarming(lines[number])
    return lines


def _is_wrong(holding: Holding) -> bool:
    return holding.disagrees or holding.doubt is not None


def _cell(column: Column, holding: Holding) -> str:
    value = (column.short or column.value)(holding)
    return "-" if value is None else printable(str(value))


def _raw(column: Column, holding: Holding) -> str:
    # lslocks does the same: a program would take a blank in a cell for the end of the cell.
    value = column.value(holding)
    return "" if value is None else printable(str(value)).replace(" ", "\\x20")
