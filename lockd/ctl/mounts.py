"""How far the locks of a file system reach: to other hosts, or not beyond this one."""

import os
import re
from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

_OCTAL: Final = re.compile(r"\\([0-7]{3})")

_OWN_LOCKS: Final = {
    "nfs": frozenset({"nolock", "local_lock=all", "local_lock=posix"}),
    "nfs4": frozenset({"nolock", "local_lock=all", "local_lock=posix"}),
    "cifs": frozenset({"nobrl", "forcemand"}),
    "smb3": frozenset({"nobrl", "forcemand"}),
    "gfs2": frozenset({"lockproto=lock_nolock", "localflocks"}),
    "ocfs2": frozenset({"localflocks"}),
    "lustre": frozenset({"localflock", "noflock"}),
}
"""File systems that hosts share, and the options that keep POSIX locks from the other hosts: nfs(5), mount.cifs(8),
gfs2(5), mount.lustre(8), Documentation/filesystems/ocfs2.rst."""

_SHARED: Final = frozenset(_OWN_LOCKS) | {"ceph", "gpfs", "beegfs"}

_UNKNOWN: Final = frozenset({"9p", "virtiofs", "overlay", "autofs"})


class Reach(Enum):
    """To whom a lock is visible."""

    ALL_HOSTS = "all hosts"
    THIS_HOST = "this host"
    UNKNOWN = "unknown"
    BROKEN = "broken"
    """The file system is shared, and its locks are not: the worst of both."""


class Mount(NamedTuple):
    """A mounted file system.

    :ivar options: those of the mount and of the file system.
    """

    point: str
    kind: str
    source: str
    options: frozenset[str]

    @property
    def reach(self) -> Reach:
        """How far its locks reach."""
        if self.kind in _SHARED:
            return Reach.BROKEN if self.hindrance else Reach.ALL_HOSTS
        if self.kind.startswith("fuse") or self.kind in _UNKNOWN:
            return Reach.UNKNOWN
        return Reach.THIS_HOST

    @property
    def hindrance(self) -> str | None:
        """The option that keeps its locks on this host."""
        found = sorted(self.options & _OWN_LOCKS.get(self.kind, frozenset()))
        return found[0] if found else None


def mounts() -> Iterator[Mount]:
    """Yield all mounts that this process sees, those that hide others after them."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            # id, parent, device, root, point, options, optional fields, "-", type, source, super options (proc(5))
            fields = line.split()
            after = fields.index("-")
            options = frozenset(fields[5].split(",")) | frozenset(fields[after + 3].split(","))
            yield Mount(_unescaped(fields[4]), fields[after + 1], _unescaped(fields[after + 2]), options)


def mount_of(path: str) -> Mount:
    """Return the mount that a path is on, or would be if it were there; its links are followed."""
    path = os.path.realpath(path)
    best = Mount("/", "rootfs", "", frozenset())
    for mount in mounts():
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        if inside and len(mount.point) >= len(best.point):
            best = mount
    return best


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
