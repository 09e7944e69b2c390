"""Who can have a path lead to another file (path_resolution(7), unlink(2))."""

import os
import stat
from typing import Final

_LINKS_MAX: Final = 40  # as many as the kernel follows: path_resolution(7)
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_ROOT: Final = 0


def others_can_replace(path: str) -> bool:
    """Return whether a user other than root and this process's own can have a path lead to another file.

    Such a user may write to a directory on the way, and put a symbolic link or another directory there. In a
    directory with the sticky bit they can replace what they own only. An access control list shows in the mode as the
    permissions of the group (acl(5)).

    :param path: an absolute path.
    :returns: True also where that cannot be known.
    """
    directory = path[: path.rfind("/")] or "/"
    try:
        return _writable_on_the_way(directory, _LINKS_MAX) or bool(
            os.stat(directory).st_mode & _WRITABLE_BY_OTHERS
        )
    except OSError:
        return True


def _writable_on_the_way(directory: str, links_max: int) -> bool:
    """Return whether others can replace a component of the path of a directory.

    :raises OSError: the directory is not there.
    """
    here = ""
    for part in directory.split("/"):
        here = f"{here}/{part}" if part else here
        status = os.lstat(here or "/")
        if others_can_change(status):
            return True
        if stat.S_ISLNK(status.st_mode):
            target = os.path.join(os.path.dirname(here), os.readlink(here))
            if links_max == 0 or _writable_on_the_way(target, links_max - 1):
                return True
    return False


def others_can_replace_entry(path: str, status: os.stat_result | None) -> bool:
    """Return whether a user other than root and this process's own can replace one entry of a directory, or make it.

    In a directory like /tmp, which all may write to and which has the sticky bit, they can replace what they own, and
    make what is missing.

    :param path: the absolute path of the entry.
    :param status: the result of lstat(2) for it; None if it is not there.
    :returns: False if nobody else may write to the directory.
    """
    if status is not None and status.st_uid in (_ROOT, os.geteuid()):
        return False
    try:
        return bool(os.lstat(os.path.dirname(path)).st_mode & _WRITABLE_BY_OTHERS)
    except (OSError, ValueError):
        return False  # there is no such directory, nor a name with a NUL


def others_can_change(status: os.stat_result) -> bool:
    """Return whether a user other than root and this process's own can replace what is in a directory, or a link.

    :param status: the result of lstat(2) for it.
    :returns: whether that user owns it, or may write to the directory. In one with the sticky bit, they can replace what
        they own only, which is looked at by itself.
    """
    if status.st_uid not in (_ROOT, os.geteuid()):
        return True
    if stat.S_ISLNK(status.st_mode):
        return False
    return bool(status.st_mode & _WRITABLE_BY_OTHERS) and not status.st_mode & stat.S_ISVTX
