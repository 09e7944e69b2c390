"""A resource as a client names it."""

from typing import NamedTuple


class Resource(NamedTuple):
    """What is locked for a disk.

    :ivar lockspace: the lockspace's directory; empty for the direct lockspace.
    :ivar name: the file's name in that directory; in the direct lockspace its whole path.
    :ivar autocreate: whether the file is made for the lock, and removed with it.
    """

    lockspace: str
    name: str
    autocreate: bool = False

    @property
    def path(self) -> str:
        """The file whose first byte is locked."""
        return f"{self.lockspace}/{self.name}" if self.lockspace else self.name
