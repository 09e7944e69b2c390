"""The command ``virtlockd``: what must be done before the rest of the program is imported."""

import gc
import signal

from lockd.daemon.repeated_start import this_start
from lockd.linux.descriptors import open_standard_streams


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
        from lockd.daemon.main import main as run

        run(start)
    except Exception as error:
        start.repeat(error)
        raise
