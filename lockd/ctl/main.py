"""The command ``lockctl``."""

import os
import sys

from lockd.client.errors import Busy, ClientError, PermissionDenied, Unavailable
from lockd.ctl.exits import Exit, Failure
from lockd.ctl.parser import commands_for, make_parser, split_command
from lockd.ctl.terminal import escape_unencodable, print_error
from lockd.libvirt.addresses import HomeUnknown
from lockd.linux.descriptors import open_standard_streams


def main() -> None:
    """Run one command, and end the process with its exit status."""
    _reopen_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        escape_unencodable(stream)
    arguments, command = split_command(sys.argv[1:])
    options = make_parser(commands_for(arguments)).parse_args(arguments)
    options.command = command
    try:
        status = options.run(options)
        sys.stdout.flush()
    except Failure as failure:
        status = _report(str(failure), failure.status)
    except Busy as error:
        status = _report(str(error), Exit.BUSY)
    except PermissionDenied as error:
        status = _report(str(error), Exit.NO_PERMISSION)
    except Unavailable as error:
        status = _report(str(error), Exit.NO_DAEMON)
    except (ClientError, HomeUnknown) as error:
        status = _report(str(error), Exit.FAILED)
    except BrokenPipeError:
        # The reader of the output has closed it. Python must not report this again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = Exit.DONE
    except KeyboardInterrupt:
        # 128 and the number of SIGINT, as a shell reports it.
        status = 130
    sys.exit(status)


def _reopen_closed_streams() -> None:
    """Open /dev/null for standard streams that were closed when the program started. Python has None for them."""
    open_standard_streams()
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", encoding="utf-8"))


def _report(message: str, status: Exit) -> Exit:
    print_error(message)
    return status
