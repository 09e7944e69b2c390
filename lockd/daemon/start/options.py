"""virtlockd's command line."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from lockd import __version__
from lockd.libvirt.addresses import Addresses


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    :ivar timeout: seconds without clients and locks after which the daemon ends, or None.
    """

    verbose: bool
    daemon: bool
    timeout: int | None
    config: Path | None
    pid_file: Path

    def arguments(self) -> list[str]:
        """Return a command line that asks for the same, from within any directory."""
        return [
            *(["--verbose"] if self.verbose else []),
            *(["--daemon"] if self.daemon else []),
            *(["--timeout", str(self.timeout)] if self.timeout is not None else []),
            *(["--config", str(self.config)] if self.config is not None else []),
            *["--pid-file", str(self.pid_file)],
        ]


def parse_options(arguments: list[str], addresses: Addresses) -> Options:
    """Return the options; ends the process where there are wrong ones, or help is asked for."""
    parser = argparse.ArgumentParser(
        prog="virtlockd",
        description="Holds the locks of virtual machines' disks, for libvirt.",
        epilog=f"Sockets: {addresses.socket} and {addresses.admin_socket}. "
        "See virtlockd(8), and lockctl(1) to look inside.",
        allow_abbrev=False,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens, not only warnings")
    parser.add_argument("-d", "--daemon", action="store_true", help="go into the background")
    parser.add_argument(
        "-t", "--timeout", type=_seconds, metavar="SECS", help="end after SECS without clients and locks"
    )
    parser.add_argument(
        "-f", "--config", type=_path, metavar="FILE", help=f"configuration; default {addresses.config_file}"
    )
    parser.add_argument(
        "-p",
        "--pid-file",
        type=_path,
        metavar="FILE",
        default=addresses.pid_file,
        help="default %(default)s",
    )
    parser.add_argument("-V", "--version", action="store_true", help="show the version and exit")
    options = vars(parser.parse_args(arguments))
    # After all of the command line was understood: a daemon asks a program so before it executes it.
    if options.pop("version"):
        print(f"virtlockd (lockd) {__version__}")
        sys.exit()
    return Options(**options)


def _path(text: str) -> Path:
    # A daemon in the background is in another directory than its caller.
    return Path(text).absolute()


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds, 1 or more")
    return int(text)
