"""What makes two files the same one to the kernel's locks."""

import os
import stat
from typing import Final, TypeAlias

Identity: TypeAlias = tuple[int, ...]
"""Device and inode number of a file, or the device's own number and -1 for a block device."""

_is_block_device: Final = stat.S_ISBLK

# Places in a stat_result. Looking its fields up by their names takes longer.
_MODE: Final = 0
_INODE: Final = 1
_DEVICE: Final = 2

_NO_INODE: Final = -1


def identity_of(status: os.stat_result) -> Identity:
    """Return what identifies a file.

    Two nodes of one block device are two inodes to the kernel's locks, and yet the same disk. So a block device is
    identified by its own number.

    :param status: what stat(2) or fstat(2) returned for the file.
    :returns: its identity.
    """
    if _is_block_device(status[_MODE]):
        return status.st_rdev, _NO_INODE
    return status[_DEVICE], status[_INODE]
