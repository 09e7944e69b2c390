"""Why a call on the lock table or on an engine was refused. Each error has the text that says so."""

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
    """Somebody other than this daemon who holds the kernel's lock on a file.

    :ivar pid: the process; 0 or negative where the kernel cannot name one (``lockd.linux.record_locks.lock_holder``).
    :ivar path: the file.
    """

    pid: int
    path: str


class RelatedHolder(NamedTuple):
    """Somebody who holds another device or file with the same data.

    :ivar holder: who does, as in ``Busy``.
    :ivar path: the other device or file.
    :ivar relation: what it has to do with the refused one, as a relative clause, for example "which is on it".
    """

    holder: Any
    path: str
    relation: str


class Busy(LockError):
    """The resource, or the inode behind its name, or what has the same data, is held.

    :ivar holder: the Resource of this daemon that holds it, the Outsider or RelatedHolder that does, words for
        the daemon itself, or None where it cannot be known.
    """

    def __init__(self, name: str, holder: Any) -> None:
        super().__init__(f"Lockspace resource '{name}' is locked")
        self.holder = holder


class TooManyHoldings(LockError):
    """A shared resource has as many holdings as it may have."""

    def __init__(self, name: str, most: int) -> None:
        super().__init__(f"{name} has {most} holdings, which is the most: release some first")


class NotHeld(LockError):
    """Release of a resource that nobody holds."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Lockspace resource '{name}' is not locked")


class NotOwner(LockError):
    """Release by an owner who has no holding of the resource.

    :ivar number: what names the owner in the message: its key, or the pid that its client has registered.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"owner {number} does not hold the resource lock")
        self.number = number


class TryAgain(LockError):
    """Somebody is in the way for a moment, so the caller does the work again after a pause. No thread waits for it.

    :ivar refusal: the error of the call, if the caller gives up.
    :ivar seconds: how long it may be tried; infinite where that is until the client has left.
    """

    def __init__(self, refusal: LockError, seconds: float) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.seconds = seconds


class SystemCallFailed(LockError):
    """A system call failed.

    :ivar errno: why, as the system numbers it (errno(3)).
    :ivar creating_file: whether a file was to be created; virtlockd reports that in another way.
    """

    def __init__(self, what: str, error: OSError, *, creating_file: bool = False) -> None:
        super().__init__(f"{what}: {error.strerror or error}")
        self.errno = error.errno or 0
        self.creating_file = creating_file
