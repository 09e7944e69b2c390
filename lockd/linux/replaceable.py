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
    users = {_ROOT, os.geteuid()}
    here = ""
    for part in directory.split("/"):
        here = f"{here}/{part}" if part else here
        status = os.lstat(here or "/")
        if status.st_uid not in users:
            return True
        if stat.S_ISLNK(status.st_mode):
            target = os.path.join(os.path.dirname(here), os.readlink(here))
            if links_max == 0 or _writable_on_the_way(target, links_max - 1):
                return True
        elif status.st_mode & _WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX:
            return True
    return False
