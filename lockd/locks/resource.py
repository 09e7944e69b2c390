"""A resource: one name in a lockspace, and what the lock table knows of its lock."""

from collections import Counter
from enum import Enum
from itertools import count
from typing import Final

from lockd.locks.engine import Engine, Hold

DIRECT: Final = ""
"""The path that stands for the direct lockspace, where a resource's name is the path of the locked file."""

LOST: Final = "the lock was lost, and taken again"
"""The doubt of a resource whose lock was gone for a while, so that somebody else may have used the disk."""

BEING_TAKEN: Final = "the lock was lost, and is being taken again"
"""The doubt of a resource whose lock a worker thread is to take again."""

_next_number: Final = count(1).__next__


class State(Enum):
    """How far a resource is between being asked for and being gone."""

    ACQUIRING = "acquiring"
    HELD = "held"
    RELEASING = "releasing"


# Members of an enumeration take several times as long to look up.
_ACQUIRING: Final = State.ACQUIRING


class Resource:
    """A lock that is held, or is being acquired or released.

    :ivar number: its place in the order in which resources were asked for.
    :ivar lockspace: the path of its lockspace; ``DIRECT`` for the direct one.
    :ivar name: its name in the lockspace.
    :ivar path: the file that stands for it.
    :ivar engine: what takes and keeps its lock.
    :ivar since: when the lock was asked for, in seconds since the epoch.
    :ivar shared: whether others may hold it at the same time, if they share it too.
    :ivar autocreate: whether its file is made for the lock, and removed with it.
    :ivar holdings: the keys of the owners, each once for every holding. A key is the owner's pid, or a negative number if
        that is not known. Only a shared resource has several owners.
    :ivar queue: what calls of the engine for this resource may wait for, such as a mount point; None where they do
        not block.
    :ivar doubt: why the lock may not be held, or may protect nothing; None for most locks.
    :ivar hold: what the engine keeps for the lock; None until it is taken.
    """

    __slots__ = (
        "autocreate",
        "doubt",
        "engine",
        "hold",
        "holdings",
        "lockspace",
        "name",
        "number",
        "path",
        "queue",
        "shared",
        "since",
        "state",
    )

    def __init__(
        self,
        lockspace: str,
        name: str,
        path: str,
        engine: Engine,
        since: float,
        shared: bool,
        autocreate: bool,
    ) -> None:
        self.number = _next_number()
        self.lockspace = lockspace
        self.name = name
        self.path = path
        self.engine = engine
        self.since = since
        self.shared = shared
        self.autocreate = autocreate
        self.holdings: list[int] = []
        self.queue: str | None = None
        self.doubt: str | None = None
        self.state = _ACQUIRING
        self.hold: Hold | None = None

    @property
    def owners(self) -> dict[int, int]:
        """The number of holdings of each owner, by the owner's key."""
        return Counter(self.holdings)
