"""What a file server says of a name or a file now, and not what this host remembers of it.

A host remembers what it has asked a server for a while: which file has which name, and the attributes of files. NFS
does so for up to a minute (nfs(5): acregmax, acdirmax), and FUSE for as long as the server permits. So stat(2) may
describe a file that another host has removed or replaced meanwhile.

All of this may block.
"""

import ctypes
import os
from struct import Struct
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# <linux/stat.h> and <linux/fcntl.h>. os.statx is new in Python 3.15.
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_FORCE_SYNC: Final = 0x2000
_STATX_NLINK: Final = 0x4
_STATX: Final = Struct("=I12xI236x")  # struct statx: stx_mask and stx_nlink

_statx: Final = ctypes.CDLL(None, use_errno=True).statx


def look_up_anew(path: str) -> None:
    """Have the next call that follows a path ask the server for the file of that name.

    To open a directory makes an NFS client ask whether it has changed, and forget its names if it has (close-to-open
    consistency, nfs(5)). If the path is a symbolic link, the same is done where it leads.

    A directory cannot be locked (fcntl(2)), so that closing it ends no lock (Invariant 1).

    :param path: the path, absolute.
    :raises OSError: the server cannot be asked.
    """
    _open_and_close(os.path.dirname(path))
    if os.path.islink(path):
        _open_and_close(os.path.dirname(os.path.realpath(path)))


def _open_and_close(directory: str) -> None:
    try:
        os.close(os.open(directory, _DIRECTORY))
    except (FileNotFoundError, NotADirectoryError):
        pass  # whoever follows the path will see that
    except PermissionError:
        pass  # the directory may be searched and not read: it was looked at before its permissions were


def is_removed(fd: int) -> bool:
    """Ask the server whether an open file has no name any more.

    :param fd: a descriptor of the file.
    :returns: False also where a file system does not count the names of files.
    :raises OSError: the server cannot be asked; with ESTALE it does not know the file any more.
    """
    answer = ctypes.create_string_buffer(_STATX.size)
    if _statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_FORCE_SYNC, _STATX_NLINK, answer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    told, names = _STATX.unpack(answer.raw)
    return bool(told & _STATX_NLINK) and names == 0
