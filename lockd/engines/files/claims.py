"""Claims: the right to open an inode, and what is raised where there is none."""

from typing import Any, Final

from lockd.linux.file_identity import Identity
from lockd.locks.engine import Hold

NOT_OPEN: Final = -1
"""The descriptor of a claim whose file is not open."""

ABANDONED: Final = "a call that an upgrade cut off"
"""The holder of a descriptor that a worker thread had just opened when the program was replaced. The next claim on its
inode takes the descriptor over."""

ORPHANED: Final = "a daemon before this one, whose state is lost"
"""The holder of an inherited descriptor if no state tells whether there is a lock on it."""


class Claim(Hold):
    """The right to open one inode, and the descriptors that are open on it.

    :ivar holder: what the claim was made for, for example a ``Resource`` or a log file.
    :ivar identity: what identifies the inode.
    :ivar fd: the descriptor to lock.
    :ivar parked: further descriptors of the inode, which are closed when the claim ends; None if there are none.
    :ivar is_ending: whether the file is being closed, or is closed already. The claim has not ended yet.
    """

    __slots__ = ("fd", "holder", "identity", "is_ending", "parked")

    def __init__(self, holder: Any, identity: Identity, fd: int) -> None:
        self.holder = holder
        self.identity = identity
        self.fd = fd
        self.parked: list[int] | None = None
        self.is_ending = False

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self.fd != NOT_OPEN


class Claimed(Exception):
    """The inode is claimed already.

    :ivar claim: the present claim; its holder tells for what.
    """

    def __init__(self, claim: Claim) -> None:
        super().__init__(claim)
        self.claim = claim


class Related(Claimed):
    """A block device or file with the same data is claimed already.

    :ivar claim: the claim on the other one.
    :ivar relation: what the other one has to do with this one, as a relative clause.
    """

    def __init__(self, claim: Claim, relation: str) -> None:
        super().__init__(claim)
        self.relation = relation


class BlockDevice(Exception):
    """The file is a block device, which may block, and was not opened.

    :ivar identity: what identifies it.
    """

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        self.identity = identity
