"""The mount table of this process: /proc/self/mountinfo (proc(5)), and which mount a path is on."""

import os
import select
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

MOUNTINFO: Final = "/proc/self/mountinfo"

_OUTSIDE: Final = -1
"""Stands for the mount that the root directory is in, where the table does not list it (after chroot(2))."""


class Mount(NamedTuple):
    """A mounted file system.

    :ivar number: the kernel's number for the mount.
    :ivar parent: the number of the mount that it is mounted on.
    :ivar device: the device number that its files have (``st_dev`` in stat(2)); of btrfs they have others.
    :ivar point: where it is mounted.
    :ivar kind: the type of the file system, for example ``ext4`` or ``fuse.sshfs``.
    :ivar source: what is mounted: a device, a server's export, or a word that the file system chose.
    :ivar options: the options of the mount and of the file system, separated by commas.
    """

    number: int
    parent: int
    device: int
    point: str
    kind: str
    source: str
    options: str


_ROOT: Final = Mount(_OUTSIDE, _OUTSIDE, 0, "/", "rootfs", "", "")


def parse(mountinfo: bytes) -> list[Mount]:
    """Return the mounts that a mountinfo file lists.

    :param mountinfo: the content of the file.
    :returns: the mounts, in the order of the file.
    """
    # A line ends with a newline only: a mount point may have any other line break, and any kind of blank but the
    # plain one, in its name.
    return [_parse_line(line) for line in mountinfo.split(b"\n")[:-1]]


def _parse_line(line: bytes) -> Mount:
    # mount number, parent, device, root, mount point, options, optional fields, "-", type, source, super options
    fields = line.split(b" ")
    end = fields.index(b"-")
    major, minor = map(int, fields[2].split(b":"))
    return Mount(
        int(fields[0]),
        int(fields[1]),
        os.makedev(major, minor),
        os.fsdecode(_unescape(fields[4])),
        os.fsdecode(fields[end + 1]),
        os.fsdecode(_unescape(fields[end + 2])),
        os.fsdecode(fields[5] + b"," + fields[end + 3]),
    )


def _unescape(field: bytes) -> bytes:
    """Undo the octal escapes that stand for blanks, tabs, newlines and backslashes (proc(5))."""
    first, *rest = field.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


class MountTable:
    """The mounts of a moment.

    :param mounts: what ``parse`` returned.
    """

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self.mounts = list(mounts)
        self._by_number = {_OUTSIDE: _ROOT, **{mount.number: mount for mount in self.mounts}}
        self._mounted = {(self._parent(mount), mount.point): mount for mount in self.mounts}

    @classmethod
    def read(cls) -> "MountTable":
        """Return the mounts that this process sees now."""
        return cls(parse(Path(MOUNTINFO).read_bytes()))

    def mount_of(self, path: str) -> Mount:
        """Return the mount that a path is on, or would be on if it existed.

        :param path: an absolute path without symbolic links, ``.`` and ``..``.
        :returns: the mount. A mount that is hidden under another one is never returned.
        """
        mount = _ROOT
        for here in accumulate(path.rstrip("/").split("/"), "{}/{}".format):
            mount = self.entered(mount, here or "/")
        return mount

    def entered(self, mount: Mount, path: str) -> Mount:
        """Return the mount that a path is on, if that of its directory is known: one step of ``mount_of``.

        :param mount: the mount that its directory is on.
        :param path: as for ``mount_of``.
        :returns: the mount.
        """
        # A mount on the same place hides the earlier one. The order of the table need not be the order in
        # which they were mounted, so the parents decide.
        while (on_top := self._mounted.get((mount.number, path))) is not None:
            mount = on_top
        return mount

    def _parent(self, mount: Mount) -> int:
        known = mount.parent in self._by_number and mount.parent != mount.number
        return mount.parent if known else _OUTSIDE


class MountChanges:
    """Tells whether the mounts of this process have changed.

    The kernel reports a change of an open mountinfo file as an exceptional condition (POLLPRI), once (proc(5)). The
    file stays open, as one day there may be no descriptor left to open it again.
    """

    def __init__(self) -> None:
        self._file = open(MOUNTINFO, "rb", buffering=0)  # noqa: SIM115 - open as long as the object
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)

    def happened(self) -> bool:
        """Return whether a mount was added, removed or changed since the last call."""
        return bool(self._poll.poll(0))

    def read(self) -> bytes:
        """Return the content of the mountinfo file now.

        :raises OSError: it cannot be read.
        """
        self._file.seek(0)
        return self._file.readall()
