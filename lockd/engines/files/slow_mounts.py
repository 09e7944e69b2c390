"""Which paths lead to a file system that may block: one behind a network, or behind another process.

Finding out must not block either: the mount table comes from the kernel, and a path is followed only as long as it
stays on local file systems.
"""

import os
import stat
from collections.abc import Iterable
from typing import Final

from lockd.linux.file_systems import lists_locks, may_block
from lockd.linux.mount_table import Mount, MountTable
from lockd.linux.replaceable import others_can_change, others_can_replace_entry

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
        self._kinds: dict[int | None, str] = {mount.device: mount.kind for mount in mounts.mounts}
        self._directories_of_slow_mounts = {
            mount.point.rpartition("/")[0] for mount in mounts.mounts if may_block(mount.kind)
        }
        self._local_directories.clear()

    def slow_mount(self, path: str) -> str | None:
        """Return the mount point of the file system that calls on a path may block on.

        The last component of the path is not followed: if it is a symbolic link, it may still lead anywhere. With a
        slash at its end, all of the path is followed.

        A directory that is found to be local is remembered until the mounts change. Nobody but root and the daemon's
        own user could have its path lead elsewhere when it was looked at.

        :param path: an absolute path.
        :returns: the mount point, or None where the path is on local file systems only. If another user can have the
            path lead to a slow file system at any moment, the directory or link that belongs to that user. ``/`` for a
            path that takes too long to follow, or leads through a link in /proc: it may lead anywhere.
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

    def has_server(self, path: str) -> bool:
        """Return whether other hosts or file servers may lock a file, as far as is known.

        :param path: the path of the file.
        :returns: whether its file system is a slow one.
        """
        slow_mount = self.slow_mount(f"{path}/")
        return slow_mount is not None and may_block(self._mounts.mount_of(slow_mount).kind)

    def lists_locks(self, slow_mount: str | None, device: int | None) -> bool:
        """Return whether the kernel lists the record locks of a file system.

        :param slow_mount: what the method ``slow_mount`` returned for a file on it.
        :param device: the device number that the file has, which tells where its path has led; None if that is not
            known.
        :returns: False where a lock may be held and not listed.
        """
        if slow_mount is None:
            return True
        # Of btrfs and of overlays, files have other device numbers than the mount.
        kind = self._kinds.get(device) or self._mounts.mount_of(slow_mount).kind
        return lists_locks(kind)

    def _follow(self, directory: str) -> tuple[str | None, str]:
        """Walk down to a directory. Return the mount point where the walk leaves the local file systems, and its end."""
        to_go = _parts(directory)
        here = ""
        # The mounts of the root directory and of each directory down to this one.
        mounts = [self._mounts.mount_of("/")]
        for _ in range(_STEPS_MAX):
            if may_block(mounts[-1].kind):
                return mounts[-1].point, here
            if not to_go:
                return None, here
            part = to_go.pop()
            if part == "..":
                here = here.rpartition("/")[0]
                mounts = mounts[:-1] or mounts
                continue
            above, here = here, f"{here}/{part}"
            mounts.append(self._mounts.entered(mounts[-1], here))
            if may_block(mounts[-1].kind):
                continue
            status: os.stat_result | None = None
            target: str | None = None
            try:
                status = os.lstat(here)
                target = os.readlink(here) if stat.S_ISLNK(status.st_mode) else None
            except (OSError, ValueError):
                pass  # nothing that could be opened now, such as a name with a NUL
            may_change = status is not None and bool(to_go) and others_can_change(status)
            if may_change or others_can_replace_entry(here, status):
                return self._slow(os.path.normpath("/".join((here, *reversed(to_go))))) or here, here
            if target is None:
                continue
            if mounts[-1].kind == "proc":
                # A link such as /proc/PID/root does not lead where its text says, but into the mount namespace of that
                # process, whose mounts are not in the table.
                break
            here, mounts = ("", mounts[:1]) if target.startswith("/") else (above, mounts[:-1])
            to_go += _parts(target)
        return _ANYWHERE, here

    def _slow(self, path: str) -> str | None:
        """Return the mount point of a path without links, if its file system may block."""
        mount = self._mounts.mount_of(path)
        return mount.point if may_block(mount.kind) else None


def _parts(path: str) -> list[str]:
    """Return the components of a path, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]
