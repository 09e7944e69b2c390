"""Which paths lead to a file system that may block: one behind a network, or behind another process.

Finding out must not block either: the mount table comes from the kernel, and a path is followed only as long as it
stays on local file systems.
"""

import os
from typing import Final

from lockd.linux.file_systems import lists_locks, may_block
from lockd.linux.mount_table import MountTable, parse

_LINKS_MAX: Final = 40  # as many as the kernel follows: path_resolution(7)
_CACHE_MAX: Final = 4096


class SlowMounts:
    """The mounts that calls may block on, as of the last ``refresh``."""

    def __init__(self) -> None:
        # By directory: None if nothing slow is mounted in it, otherwise its path without links.
        self._local_directories: dict[str, str | None] = {}
        self._take_over(MountTable.read())

    def refresh(self, mountinfo: bytes) -> None:
        """Replace the mounts by those of a mountinfo file.

        :param mountinfo: the content of the file; see ``lockd.linux.mount_table``.
        """
        self._take_over(MountTable(parse(mountinfo)))

    def _take_over(self, mounts: MountTable) -> None:
        self._mounts = mounts
        self._directories_of_slow_mounts = {
            mount.point.rpartition("/")[0] for mount in mounts.mounts if may_block(mount.kind)
        }
        self._local_directories.clear()

    def slow_mount(self, path: str) -> str | None:
        """Return the mount point of the file system that calls on a path may block on.

        The last component of the path is not followed: if it is a symbolic link, it may still lead anywhere. With a
        slash at its end, all of the path is followed.

        A directory that is found to be local is remembered until the mounts change. If it is replaced meanwhile by
        a link to a slow file system, other clients may have to wait; no lock is lost by it.

        :param path: an absolute path.
        :returns: the mount point, or None where the path is on local file systems only.
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
            place = self._local_directories[directory] = (
                end if end in self._directories_of_slow_mounts else None
            )
        if place is None:
            return None
        return self._slow(f"{place}/{path[len(directory) + 1 :]}")  # a single file can be mounted too

    def lists_locks(self, slow_mount: str | None) -> bool:
        """Return whether the kernel lists the record locks of a file system.

        :param slow_mount: what the method ``slow_mount`` returned for a file on it.
        :returns: False where a lock may be held and not listed.
        """
        return slow_mount is None or lists_locks(self._mounts.mount_of(slow_mount).kind)

    def _follow(self, directory: str) -> tuple[str | None, str]:
        """Walk down to a directory. Return the mount point where the walk leaves the local file systems, and its end."""
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
            except (OSError, ValueError):
                continue  # not a link, or nothing that could be opened either, such as a name with a NUL
            links += 1
            if links > _LINKS_MAX:
                return None, here
            here = "" if target.startswith("/") else here.rpartition("/")[0]
            to_go += [part for part in reversed(target.split("/")) if part]
        return self._slow(here or "/"), here

    def _slow(self, path: str) -> str | None:
        """Return the mount point of a path without links, if its file system may block."""
        mount = self._mounts.mount_of(path)
        return mount.point if may_block(mount.kind) else None
