"""What can keep a lock from being taken or given back. Each error knows what to say of it."""

import os
from typing import Any, NamedTuple


class LockError(Exception):
    """A call on the lock table was refused; nothing has changed by it."""


class InvalidName(LockError):
    """A lockspace or resource cannot have this name."""


class UnknownLockspace(LockError):
    """Nobody has made a lockspace of this path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"Lockspace for path {path} does not exist")


class LockspaceExists(LockError):
    """NEW of a lockspace that is known."""

    def __init__(self, path: str) -> None:
        super().__init__(f"Lockspace for path {path} already exists")


class DirectLockspaceExists(LockError):
    """NEW of the direct lockspace, which always exists."""

    def __init__(self) -> None:
        super().__init__("the default lockspace already exists")


class NotADirectory(LockError):
    """The path of a lockspace is that of something else."""

    def __init__(self, path: str) -> None:
        super().__init__(f"Lockspace location {path} exists, but is not a directory")


class Outsider(NamedTuple):
    """Whoever holds the kernel's lock on the file at ``path``, and is not this daemon.

    :ivar pid: the process; 0 or less where it is none that the kernel can name (``posix.lock_holder``).
    """

    pid: int
    path: str


class Busy(LockError):
    """The resource, or the inode behind its name, is held.

    :ivar holder: the Resource of this daemon that holds it, the Outsider that does, words for the daemon
        itself, or None where it cannot be known.
    """

    def __init__(self, name: str, holder: Any) -> None:
        super().__init__(f"Lockspace resource '{name}' is locked")
        self.holder = holder


class NotHeld(LockError):
    """Release of a resource that nobody holds."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Lockspace resource '{name}' is not locked")


class NotOwner(LockError):
    """Release by an owner who is not among the resource's."""

    def __init__(self, pid: int) -> None:
        # A pid is signed to the kernel and to virtlockd, though the protocol sends it unsigned.
        signed = pid - 2**32 if pid >= 2**31 else pid
        super().__init__(f"owner {signed} does not hold the resource lock")


class SystemCallFailed(LockError):
    """The operating system refused; ``errno`` says why.

    :ivar creating_file: whether a file was to be created, which virtlockd reports in another way.
    """

    def __init__(self, what: str, error: OSError, *, creating_file: bool = False) -> None:
        self.errno = error.errno or 0
        self.creating_file = creating_file
        super().__init__(f"{what}: {os.strerror(self.errno)}")
