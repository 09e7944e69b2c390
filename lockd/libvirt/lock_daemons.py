"""The lock daemons that can replace each other in a running process: lockd and libvirt's virtlockd."""

from enum import Enum


class LockDaemon(Enum):
    """A lock daemon. The value is the part of its ``--version`` output that identifies it."""

    LOCKD = b"(lockd)"
    VIRTLOCKD = b"(libvirt)"


def identify(version_output: bytes) -> LockDaemon | None:
    """Return which lock daemon a program is.

    :param version_output: what the program printed to its standard output when it was run with ``--version``.
    :returns: the daemon, or None if the program is neither of them.
    """
    for daemon in LockDaemon:
        if daemon.value in version_output:
            return daemon
    return None
