"""A daemon with a planted fault: python -m tests.fuzz.faulty_daemon FAULT PROGRAM ARGUMENTS…

The fault occurs again and again, beginning when guests hold locks.
"""

import ctypes
import logging
import os
import signal
import sys
import time
from pathlib import Path
from threading import Event, Thread

from lockd.daemon.command import main
from tests.fuzz.words import GUARDED_DISK
from tests.kernel_locks import locks_of

_LOCKS = 5
"""Those of the guests, and that on the pid file."""


def _die() -> None:
    os._exit(7)


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    # A second signal would kill the daemon where it no longer handles signals, on its way out.
    Event().wait()


def _hang() -> None:
    """Hold the interpreter's lock, so that no other thread runs."""
    ctypes.PyDLL(None).sleep(5)


def _log_exception() -> None:
    try:
        raise ValueError
    except ValueError:
        logging.getLogger("lockd.daemon.reactor").exception("planted")


def _leak() -> None:
    os.open(os.devnull, os.O_RDONLY)


def _lose_lock() -> None:
    """Close a descriptor of a locked file, which ends the lock (fcntl(2))."""
    os.close(os.open(GUARDED_DISK, os.O_RDONLY))


def _kill_guest() -> None:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        if b"send_fds" in entry.read_bytes():
            os.kill(int(entry.parent.name), signal.SIGKILL)


FAULTS = {
    "dies": _die,
    "ends": _end,
    "hangs": _hang,
    "logs an exception": _log_exception,
    "leaks descriptors": _leak,
    "loses a lock": _lose_lock,
    "kills a guest": _kill_guest,
}


def _fail(name: str) -> None:
    while len(locks_of(os.getpid())) < _LOCKS:
        time.sleep(0.01)
    while True:
        FAULTS[name]()
        time.sleep(0.05)


if __name__ == "__main__":
    _, fault, *sys.argv = sys.argv
    Thread(target=_fail, args=(fault,), daemon=True).start()
    main()
