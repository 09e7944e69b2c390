"""The directories of the sockets and of the pid file."""

import os
import stat
from pathlib import Path
from typing import Final

from lockd.daemon.failure import Failure
from lockd.libvirt.addresses import Addresses
from lockd.linux.directories import make_directories

_PUBLIC: Final = 0o755
_PRIVATE: Final = 0o700


def make_own_directories(addresses: Addresses, pid_file: Path) -> None:
    """Make the directories of the sockets and of the pid file, and check whose they are.

    Who can write to the directory of the sockets can replace a socket, and so answer the clients of this daemon.

    :param addresses: the paths of the sockets.
    :param pid_file: the path of the pid file.
    :raises Failure: a directory cannot be made, or somebody else can write to the directory of the sockets.
    """
    own = addresses.socket.parent
    is_root = os.geteuid() == 0
    for directory in (own, pid_file.parent):
        try:
            make_directories(str(directory), _PUBLIC if is_root else _PRIVATE)
        except OSError as error:
            raise Failure(f"{directory}: cannot be made: {error.strerror}") from None
    for directory in (own,) if is_root else (own.parent, own):
        _check(directory)


def _check(directory: Path) -> None:
    try:
        status = directory.stat()
    except OSError as error:
        raise Failure(f"{directory}: cannot be used: {error.strerror}") from None
    user = os.geteuid()
    if status.st_uid not in (user, 0):
        raise Failure(
            f"{directory}: belongs to user {status.st_uid}, and not to user {user} whose daemon this is"
        )
    others = stat.S_IWOTH
    if user != 0 and status.st_gid != os.getegid():
        others |= stat.S_IWGRP
    if status.st_mode & others:
        raise Failure(
            f"{directory}: other users can write to it, and replace the sockets; remove that permission"
        )
