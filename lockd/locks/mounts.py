"""Which paths lead to a file system that may block: one behind a network, or behind another process.

Finding out must not block either: the mount table is read from the kernel, and a path is followed only as
long as it stays on local file systems.
"""

import os
from itertools import accumulate
from pathlib import Path

MOUNTINFO = "/proc/self/mountinfo"

LOCAL_TYPES = frozenset(
    [
        "bcachefs",
        "bpf",
        "btrfs",
        "cgroup",
        "cgroup2",
        "configfs",
        "cramfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "erofs",
        "exfat",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "hugetlbfs",
        "iso9660",
        "jfs",
        "minix",
        "mqueue",
        "msdos",
        "nilfs2",
        "ntfs3",
        "proc",
        "pstore",
        "ramfs",
        "reiserfs",
        "rootfs",
        "securityfs",
        "squashfs",
        "sysfs",
        "tmpfs",
        "tracefs",
        "ubifs",
        "udf",
        "vfat",
        "xfs",
        "zfs",
    ]
)
"""File systems whose calls wait for a local device at most. All others are taken to block: networks (nfs, cifs,
ceph, gfs2, ocfs2, 9p, lustre, ...), other processes (fuse), and what may stand on either (overlay, autofs)."""

_LINKS_MAX = 40  # as many as the kernel follows: path_resolution(7)
_CACHE_MAX = 4096
_OUTSIDE = -1  # stands for the mount that the root directory is in, where the table does not name it


class MountTable:
    """The mounts that this process sees, as of the last ``refresh``."""

    def __init__(self) -> None:
        self._types: dict[int, str] = {}
        self._mounted: dict[tuple[int, str], int] = {}
        self._with_slow_entries: set[str] = set()
        # None where nothing slow is mounted in it; else the path that it has without links.
        self._local_directories: dict[str, str | None] = {}
        self.refresh()

    def refresh(self, mountinfo: bytes | None = None) -> None:
        """Take the mounts from what MOUNTINFO says; by default, it is read now.

        The kernel reports a change of MOUNTINFO as an exceptional condition, to poll(2) (proc(5)).
        """
        types = {_OUTSIDE: "rootfs"}
        places = []
        # Lines end with a newline alone: a mount point may have any other line break in its name.
        for line in (Path(MOUNTINFO).read_bytes() if mountinfo is None else mountinfo).split(b"\n")[:-1]:
            # mount id, parent, device, root, mount point, options, optional fields, "-", type, source, options
            fields = line.split(b" ")
            mount, parent = int(fields[0]), int(fields[1])
            types[mount] = os.fsdecode(fields[fields.index(b"-") + 1])
            places.append((mount, parent, os.fsdecode(_unescape(fields[4]))))
        self._types = types
        self._mounted = {
            (parent if parent in types and parent != mount else _OUTSIDE, point): mount
            for mount, parent, point in places
        }
        self._with_slow_entries = {
            point.rpartition("/")[0] for mount, _, point in places if types[mount] not in LOCAL_TYPES
        }
        self._local_directories.clear()

    def slow_mount(self, path: str) -> str | None:
        """Return the mount point of the file system that ``path`` may block on, or None where it is local.

        The last component is not followed: if it is a symbolic link, it may still lead anywhere. With a slash
        at its end, all of the path is.

        A directory that is found to be local is remembered until the mounts change. One that is replaced meanwhile
        by a link to a slow file system costs others a wait, never a lock.
        """
        directory = path[: path.rfind("/")]
        try:
            place = self._local_directories[directory]
        except KeyError:
            slow, end = self._follow(directory)
            if slow is not None:
                return slow
            if len(self._local_directories) >= _CACHE_MAX:
                self._local_directories.clear()
            place = self._local_directories[directory] = end if end in self._with_slow_entries else None
        if place is None:
            return None
        return self._slow(f"{place}/{path[len(directory) + 1 :]}")  # a single file can be mounted too

    def lists_locks(self, slow_mount: str | None) -> bool:
        """Whether the kernel lists the POSIX locks of a file system in /proc/locks.

        FUSE asks the server for each lock, and notes none itself, unlike the network file systems.

        :param slow_mount: what ``slow_mount`` has returned.
        """
        return slow_mount is None or not self._find(slow_mount)[0].startswith("fuse")

    def _follow(self, directory: str) -> tuple[str | None, str]:
        """Walk down to ``directory``: say where the walk leaves the local file systems, if so, and where it ends."""
        to_go = [part for part in reversed(directory.split("/")) if part]
        here = ""
        links = 0
        while to_go:
            part = to_go.pop()
            if part == ".":
                continue
            if part == "..":
                here = here.rpartition("/")[0]
                continue
            here = f"{here}/{part}"
            slow = self._slow(here)
            if slow is not None:
                return slow, here
            try:
                target = os.readlink(here)
            except OSError:
                continue  # no link, or nothing that could be opened either
            links += 1
            if links > _LINKS_MAX:
                return None, here
            here = "" if target.startswith("/") else here.rpartition("/")[0]
            to_go += [part for part in reversed(target.split("/")) if part]
        return self._slow(here or "/"), here

    def _slow(self, path: str) -> str | None:
        """Return the mount point of ``path``, which has no links in it, if its file system may block."""
        kind, point = self._find(path)
        return None if kind in LOCAL_TYPES else point

    def _find(self, path: str) -> tuple[str, str]:
        """Return type and mount point of the file system that ``path``, which has no links in it, is on."""
        mount, point = _OUTSIDE, "/"
        for here in accumulate(path.rstrip("/").split("/"), "{}/{}".format):
            # What is mounted on a mount hides it; the order in which they were mounted need not tell.
            while (on_top := self._mounted.get((mount, here or "/"))) is not None:
                mount, point = on_top, here or "/"
        return self._types[mount], point


def _unescape(field: bytes) -> bytes:
    """Undo the octal escapes that stand for blanks and backslashes (proc(5))."""
    first, *rest = field.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)
