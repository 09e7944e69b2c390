"""lockd, with a fault of its own making: told by a signal, it loses a lock, or takes one that is nobody's.

Closing a descriptor of a locked file is all it takes: that is what the daemon itself must never do.
"""

import fcntl
import os
import signal

from lockd.daemon.main import main

_kept: list[int] = []


def lose(*_: object) -> None:
    os.close(os.open(os.environ["SABOTAGED"], os.O_RDWR))


def take(*_: object) -> None:
    _kept.append(os.open(os.environ["SABOTAGED"], os.O_RDWR))
    fcntl.lockf(_kept[-1], fcntl.LOCK_EX | fcntl.LOCK_NB, 1)


if __name__ == "__main__":
    signal.signal(signal.SIGRTMIN, lose)
    signal.signal(signal.SIGRTMIN + 1, take)
    main()
