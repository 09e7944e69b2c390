"""Making directories."""

import errno
import os
from contextlib import suppress
from typing import Final

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_PATH_MAX: Final = 4096  # <linux/limits.h>, with the NUL at the end


def make_directories(path: str, mode: int) -> None:
    """Make a directory and its parents, where they are missing. All get the same mode.

    Each one is made in its parent, which is open meanwhile. So nothing is made where a link leads that somebody has put
    in the place of a directory just made. Links that were there before are followed.

    ``os.makedirs`` gives its mode to the last one alone: with a umask of 0, everybody could write to the parents, and
    replace the last one. It also calls itself for each parent: a long path exhausts the stack.

    :param path: the directory, absolute.
    :param mode: the mode of each directory that is made, as far as the umask allows (mkdir(2)).
    :raises OSError: a directory cannot be made, or something else has its name.
    """
    parent = os.open("/", _DIRECTORY)
    try:
        end = 0
        while end < len(path):
            begin, end = end + 1, path.find("/", end + 1)
            if end < 0:
                end = len(path)
            if len(os.fsencode(path[:end])) >= _PATH_MAX:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
            if begin < end:
                child = _enter_or_make(parent, path[begin:end], mode, last=end == len(path))
                os.close(parent)
                parent = child
    finally:
        os.close(parent)


def _enter_or_make(parent: int, name: str, mode: int, *, last: bool) -> int:
    """Return a descriptor of a directory in another one."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        failure = error
    with suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=parent)
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        if last:
            raise
        raise failure from None  # as mkdir(2) of what is below would fail
