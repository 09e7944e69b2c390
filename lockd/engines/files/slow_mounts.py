"""Which paths lead to a file system that may block: one behind a network, or behind another process.

Finding out must not block either: the mount table comes from the kernel, and a path is followed only as long as it
stays on local file systems.
"""

import os
from collections.abc import Iterable
from typing import Final

from lockd.linux.file_systems import lists_locks, may_block
from lockd.linux.mount_table import Mount, MountTable

_LINKS_MAX: Final = 40  # as many as the kernel follows: path_resolution(7)
_CACHE_MAX: Final = 4096

_LENGTH_MAX: Final = 4096
_STEPS_MAX: Final = 128
"""Paths that are longer (PATH_MAX, which no file's path exceeds), or that lead through more directories and links, are
not followed, and left to a worker thread: a path through links may have tens of thousands of steps, and the kernel walks
from the root for each of them. All clients would wait for seconds (Invariant 3)."""

_ANYWHERE: Final = "/"
"""The mount point that is returned for a path that is not followed."""


class SlowMounts:
    """The mounts that calls may block on, as of the last ``refresh``."""

    def __init__(self) -> None:
        # By directory: None if nothing slow is mounted in it, otherwise its path without links.
        self._local_directories: dict[str, str | None] = {}
        self._take_over(MountTable.read())

    def refresh(self, mounts: Iterable[Mount]) -> None:
        """Replace the mounts by others.

        :param mounts: what ``lockd.linux.mount_table.parse`` returned.
        """
        self._take_over(MountTable(mounts))

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
        :returns: the mount point, or None where the path is on local file systems only. ``/`` for a path that takes too
            long to follow: it may lead anywhere.
        """
        if len(path) >= _LENGTH_MAX:
            return _ANYWHERE
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

    def is_local(self, path: str) -> bool:
        """Return whether calls on a path do not block, wherever its symbolic links lead.

        :param path: an absolute path.
        :returns: False if part of it is on a file system that may block.
        """
        return self.slow_mount(f"{path}/") is None

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
        # The mounts of the root directory and of each directory down to this one.
        mounts = [self._mounts.mount_of("/")]
        links = steps = 0
        while not may_block(mounts[-1].kind):
            if not to_go:
                return None, here
            steps += 1
            if steps > _STEPS_MAX:
                return _ANYWHERE, here
            part = to_go.pop()
            if part == ".":
                continue
            if part == "..":
                here = here.rpartition("/")[0]
                if len(mounts) > 1:
                    mounts.pop()
                continue
            above, here = here, f"{here}/{part}"
            mounts.append(self._mounts.entered(mounts[-1], here))
            if may_block(mounts[-1].kind):
                break
            try:
                target = os.readlink(here)
            except (OSError, ValueError):
                continue  # not a link, or nothing that could be opened either, such as a name with a NUL
            links += 1
            if links > _LINKS_MAX:
                return None, here
            if target.startswith("/"):
                here, mounts = "", mounts[:1]
            else:
                here = above
                mounts.pop()
            to_go += [part for part in reversed(target.split("/")) if part]
        return mounts[-1].point, here

    def _slow(self, path: str) -> str | None:
        """Return the mount point of a path without links, if its file system may block."""
        mount = self._mounts.mount_of(path)
        return mount.point if may_block(mount.kind) else None
