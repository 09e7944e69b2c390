"""The command ``virtlockd``: what must be done before the rest of the program is imported."""

import ctypes.util
import gc
import signal
import sys

from lockd.daemon.failure import reason
from lockd.daemon.repeated_start import this_start
from lockd.linux.descriptors import open_standard_streams
from lockd.linux.printable import printable


def main() -> None:
    """Run the daemon."""
    open_standard_streams()
    # SIGUSR1 and SIGHUP end a process that does not handle them, and all its locks with it. A second SIGUSR1
    # may arrive right after a live upgrade. The imports take some 80 ms; ignore both signals until the daemon
    # handles them.
    for number in (signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # All objects that are made during the start are kept, so a garbage collection would find nothing to free.
    gc.disable()
    start = this_start()
    try:
        _import_trio()
        from lockd.daemon.main import main as run

        run(start)
    except Exception as error:
        start.repeat(error)
        why = reason(error)
        if why is None:
            raise
        sys.exit(f"virtlockd: {printable(why)}")


def _import_trio() -> None:
    """Import trio, and have it run no other program.

    To name its threads, it looks for a library, and runs ldconfig for that. After a live upgrade, such a child first
    closes its copies of all descriptors of locked files. If a file server hangs, close(2) waits for it, and so would
    the daemon and all clients.
    """
    find_library = ctypes.util.find_library
    ctypes.util.find_library = _the_c_library
    try:
        import trio  # noqa: F401 - imported for the first time
    finally:
        ctypes.util.find_library = find_library


def _the_c_library(name: str) -> str | None:  # noqa: ARG001 - it takes the place of find_library
    """Return what has the function that trio looks for (glibc 2.34 or later). Without it, threads have no names."""
    return "libc.so.6"
