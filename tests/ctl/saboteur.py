"""lockd with a deliberate fault: on a signal it loses a lock, or takes a lock that has no owner.

To lose a lock it opens and closes the locked file: this ends the locks of its process on that file
(fcntl(2)).
"""

import fcntl
import os
import signal

from lockd.daemon.main import main

_kept: list[int] = []


def lose(*_: object) -> None:
    """Signal handler: lose the lock on the sabotaged file."""
    os.close(os.open(os.environ["SABOTAGED"], os.O_RDWR))


def take(*_: object) -> None:
    """Signal handler: lock the sabotaged file for no owner."""
    _kept.append(os.open(os.environ["SABOTAGED"], os.O_RDWR))
    fcntl.lockf(_kept[-1], fcntl.LOCK_EX | fcntl.LOCK_NB, 1)


if __name__ == "__main__":
    signal.signal(signal.SIGRTMIN, lose)
    signal.signal(signal.SIGRTMIN + 1, take)
    main()
