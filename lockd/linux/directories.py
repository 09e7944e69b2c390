"""Making directories."""

import errno
import os
from contextlib import suppress


def make_directories(path: str, mode: int) -> None:
    """Make a directory and its parents, where they are missing. All get the same mode.

    ``os.makedirs`` gives its mode to the last one alone: with a umask of 0, everybody could write to the parents, and
    replace the last one. It also calls itself for each parent: a long path exhausts the stack.

    :param path: the directory, absolute.
    :param mode: the mode of each directory that is made, as far as the umask allows (mkdir(2)).
    :raises OSError: a directory cannot be made, or something else has its name.
    """
    end = path.find("/", 1)
    while end > 0:
        with suppress(FileExistsError):
            os.mkdir(path[:end], mode)
        end = path.find("/", end + 1)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
