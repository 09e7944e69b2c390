"""The command ``virtlockd``: the little that must be done before the rest of the program is there."""

import gc
import signal


def main() -> None:
    """Run the daemon."""
    # The program before this one may have been told twice to let itself be replaced. Until the daemon handles
    # these signals, which the imports delay by some 80 ms, they would end the process, and all locks with it.
    for number in (signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # All that is made until the daemon serves is kept: collecting garbage meanwhile only takes time.
    gc.disable()
    from lockd.daemon.main import main as run

    run()
