"""Lockspaces as directories: the paths of resources, and the files and directories that are made for them."""

import os

from lockd.engines.files.claims import BlockDevice, Claimed
from lockd.engines.files.file_lock import claim_refused, opening_failed
from lockd.engines.files.inodes import Inodes
from lockd.linux.directories import make_directories
from lockd.locks.errors import InvalidName, NotADirectory, SystemCallFailed
from lockd.locks.resource import DIRECT


def path_of(lockspace: str, name: str) -> str:
    """Return the path of a resource's file.

    :param lockspace: the directory of the lockspace; ``DIRECT`` for the direct one.
    :param name: the file's name in the directory; in the direct lockspace its absolute path.
    :returns: the path.
    :raises InvalidName: no resource of this lockspace can have this name.
    """
    if "\0" in name:
        raise InvalidName(f"resource name {name!r} has a NUL byte in it")
    if lockspace == DIRECT:
        if not name.startswith("/"):
            raise InvalidName(f"resource '{name}' is not an absolute path")
        return name
    if "/" in name or name in {"", ".", ".."}:
        raise InvalidName(f"resource '{name}' is not the name of a file in lockspace {lockspace}")
    return f"{lockspace}/{name}"


def make_lockspace_directory(path: str) -> None:
    """Make the directory of a lockspace, and its parents, with mode 0700, where they are missing.

    It may block. It touches nothing that another thread may touch.

    :param path: the absolute path of the directory.
    :raises InvalidName: the path is not absolute, or is no path at all.
    :raises NotADirectory: the path belongs to something else.
    :raises SystemCallFailed: the directory cannot be made.
    """
    if "\0" in path:
        raise InvalidName(f"lockspace path {path!r} has a NUL byte in it")
    if not path.startswith("/"):
        raise InvalidName(f"lockspace '{path}' is not an absolute path")
    try:
        if os.access(path, os.F_OK):
            # A directory that cannot be looked at is none either, as with virtlockd.
            if not os.path.isdir(path):
                raise NotADirectory(path)
        else:
            make_directories(path, 0o700)
    except OSError as error:
        raise SystemCallFailed(f"Unable to create lockspace {path}", error) from None


def create_file(inodes: Inodes, path: str) -> None:
    """Create a resource's file with mode 0600; no effect if it exists.

    It may block. It touches nothing that another thread may touch. The file is opened and closed only under a claim,
    so that no lock on it ends (Invariant 1).

    :param inodes: the registry that opens the file.
    :param path: the path of the file.
    :raises SystemCallFailed: it cannot be created.
    :raises TryAgain: see ``opening_failed``.
    """
    try:
        claim = inodes.open_pinned(path, os.O_WRONLY | os.O_CREAT, None)
    except Claimed:
        return  # held under another name, or below a held device: it exists
    except BlockDevice:
        return  # it exists, and opening it could wait
    except OSError as error:
        failed = SystemCallFailed(f"cannot create file '{path}'", error, creating_file=True)
        raise opening_failed(failed) from None
    try:
        inodes.close(claim)
    except OSError as error:
        raise SystemCallFailed(f"cannot save file '{path}'", error, creating_file=True) from None


def delete_file(inodes: Inodes, path: str, name: str) -> None:
    """Remove a resource's file; no effect if it does not exist.

    It may block. It touches nothing that another thread may touch.

    :param inodes: the registry of locked files.
    :param path: the path of the file.
    :param name: the resource's name, for the error.
    :raises Busy: the file is held under another name.
    :raises SystemCallFailed: it cannot be removed.
    :raises TryAgain: see ``claim_refused``.
    """
    try:
        inodes.unlink(path)
    except Claimed as claimed:
        raise claim_refused(name, claimed) from None
    except FileNotFoundError:
        return
    except OSError as error:
        raise SystemCallFailed(f"Unable to delete lockspace resource {path}", error) from None
