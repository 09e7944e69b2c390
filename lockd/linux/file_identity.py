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


def is_block_device(identity: Identity) -> bool:
    """Return whether an identity is that of a block device.

    :param identity: what ``identity_of`` returned.
    :returns: False for all other files.
    """
    return identity[1] == _NO_INODE


def device_queue(identity: Identity) -> str:
    """Return the name of the queue of what may wait for a block device.

    To open it can wait for its path, and the last close(2) writes all its dirty pages out.

    :param identity: the identity of the block device.
    :returns: the path that udev makes for the device.
    """
    return f"/dev/block/{os.major(identity[0])}:{os.minor(identity[0])}"


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
