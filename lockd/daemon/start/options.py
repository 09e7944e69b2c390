"""virtlockd's command line."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from lockd import __version__
from lockd.libvirt.addresses import Addresses
from lockd.linux.command_line import CommandLineParser
from lockd.linux.printable import printable


@dataclass(frozen=True)
class Options:
    """The options of the command line.

    :ivar verbose: whether informational messages are logged too.
    :ivar daemon: whether the daemon goes into the background.
    :ivar timeout: after how many seconds without clients and locks the daemon ends; None for never.
    :ivar config: the configuration file, absolute; None for the default one, which need not exist.
    :ivar pid_file: the pid file.
    """

    verbose: bool
    daemon: bool
    timeout: int | None
    config: Path | None
    pid_file: Path

    def arguments(self) -> list[str]:
        """Return a command line with the same options, which is valid in any working directory."""
        return [
            *(["--verbose"] if self.verbose else []),
            *(["--daemon"] if self.daemon else []),
            *(["--timeout", str(self.timeout)] if self.timeout is not None else []),
            *(["--config", str(self.config)] if self.config is not None else []),
            *["--pid-file", str(self.pid_file)],
        ]


def parse_options(arguments: list[str], addresses: Addresses) -> Options:
    """Parse the command line.

    :param arguments: the arguments, without the program's name.
    :param addresses: the paths that are the defaults.
    :returns: the options.
    :raises SystemExit: an argument is invalid, or help or the version was asked for. The text is printed
        already.
    """
    parser = CommandLineParser(
        prog="virtlockd",
        description="Holds the locks of virtual machines' disks, for libvirt.",
        epilog=f"Sockets: {printable(str(addresses.socket))} and {printable(str(addresses.admin_socket))}. "
        "See virtlockd(8), and lockctl(1) to look inside.",
        allow_abbrev=False,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens, not only warnings")
    parser.add_argument("-d", "--daemon", action="store_true", help="go into the background")
    parser.add_argument(
        "-t", "--timeout", type=_seconds, metavar="SECS", help="end after SECS without clients and locks"
    )
    parser.add_argument(
        "-f",
        "--config",
        type=_path,
        metavar="FILE",
        help=f"configuration; default {_shown(addresses.config_file)}",
    )
    parser.add_argument(
        "-p",
        "--pid-file",
        type=_path,
        metavar="FILE",
        default=addresses.pid_file,
        help=f"default {_shown(addresses.pid_file)}",
    )
    parser.add_argument("-V", "--version", action="store_true", help="show the version and exit")
    options = vars(parser.parse_args(arguments))
    # Only after all arguments were checked. Before a live upgrade, the running daemon calls the next program
    # with its own arguments and --version, to see whether that program accepts them.
    if options.pop("version"):
        print(f"virtlockd (lockd) {__version__}")
        sys.exit()
    return Options(**options)


def _shown(path: Path) -> str:
    """Return a path for the help, in which argparse replaces what follows a ``%``."""
    return printable(str(path)).replace("%", "%%")


def _path(text: str) -> Path:
    # A daemon in the background has another working directory than the process that started it.
    try:
        return Path(text).absolute()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"'{text}': the working directory: {error.strerror}") from None


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds, 1 or more")
    return int(text)
