"""A resource as a client names it."""

from typing import NamedTuple


class Resource(NamedTuple):
    """The resource that is locked for a disk.

    :ivar lockspace: the directory of the lockspace; empty for the direct lockspace.
    :ivar name: the name of the file in that directory; in the direct lockspace, its whole path.
    :ivar autocreate: whether the daemon creates the file for the lock, and removes it with the lock.
    """

    lockspace: str
    name: str
    autocreate: bool = False

    @property
    def path(self) -> str:
        """The path of the file whose first byte is locked."""
        return f"{self.lockspace}/{self.name}" if self.lockspace else self.name
