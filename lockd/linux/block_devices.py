"""Which block devices and files have the same data, as sysfs tells.

They are a disk and its partitions, a device-mapper or RAID device and what is below it, a loop device and its file, and
two paths to one disk. See Documentation/ABI/stable/sysfs-block of the kernel. Reading sysfs asks no device, so it does
not wait for one. The file of a loop device may be on any file system: to find its identity may block.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from lockd.linux.file_identity import Identity, identity_of, is_block_device

Data: TypeAlias = Identity | str
"""Stands for the data of a file, of a block device, or of a disk that has a worldwide name."""

SYSFS: Final = Path("/sys")

_WORLDWIDE: Final = ("naa.", "eui.", "uuid.")
"""Names that no two disks in the world share (SPC, NVMe). A name made of vendor and serial number proves nothing: many
virtual disks and USB adapters have the same one."""

_DEEPEST: Final = 32


class Relations(NamedTuple):
    """What a block device has in common with others.

    Two devices are related if one of them is, or is below, the other one. Two partitions of a disk are not, nor are two
    logical volumes of one group.

    :ivar own: what stands for its own data: its number, and a worldwide name that its other paths have as well.
    :ivar below: what stands for the devices and files that its data are kept on.
    """

    own: frozenset[Data]
    below: frozenset[Data]


def relations_of(
    device: Identity, may_look_at: Callable[[str], bool] = os.path.isabs, sysfs: Path = SYSFS
) -> Relations:
    """Return what a block device is related to. This may block where the file of a loop device may.

    :param device: the identity of the device.
    :param may_look_at: returns whether the file of a loop device may be looked at; otherwise it is left out.
    :param sysfs: where sysfs is mounted.
    :returns: its relations. What cannot be read is left out.
    """
    below: set[Data] = set()
    to_look_at = [device]
    for _ in range(_DEEPEST):
        found: list[Identity] = []
        for one in to_look_at:
            for lower in _directly_below(one, may_look_at, sysfs):
                if lower not in below:
                    below.add(lower)
                    if is_block_device(lower):
                        below.update(_names(lower, sysfs))
                        found.append(lower)
        if not found:
            break
        to_look_at = found
    own: frozenset[Data] = frozenset([device]).union(_names(device, sysfs))
    return Relations(own, frozenset(below) - own)


def _directly_below(device: Identity, may_look_at: Callable[[str], bool], sysfs: Path) -> Iterator[Identity]:
    directory = _directory(device, sysfs)
    if (directory / "partition").exists():
        yield from _numbers([directory.parent])
    with suppress(OSError):
        yield from _numbers(list((directory / "slaves").iterdir()))
    file = _read(directory / "loop" / "backing_file")
    if may_look_at(file):
        # It may be removed, or in another mount namespace.
        with suppress(OSError, ValueError):
            yield identity_of(os.stat(file))


def _numbers(directories: list[Path]) -> Iterator[Identity]:
    for directory in directories:
        major, colon, minor = _read(directory / "dev").partition(":")
        if colon:
            yield os.makedev(int(major), int(minor)), -1


def _names(device: Identity, sysfs: Path) -> Iterator[str]:
    """Yield the worldwide name of a disk; for a partition that of its disk and its number."""
    directory = _directory(device, sysfs)
    partition = _read(directory / "partition")
    if partition:
        for name in _names_of_disk(directory.parent):
            yield f"{name} partition {partition}"
    else:
        yield from _names_of_disk(directory)


def _names_of_disk(directory: Path) -> Iterator[str]:
    for place in (directory / "wwid", directory / "device" / "wwid"):  # NVMe; SCSI
        name = _read(place)
        if name.startswith(_WORLDWIDE) and name.partition(".")[2].strip("0-"):
            yield name


def _directory(device: Identity, sysfs: Path) -> Path:
    return (sysfs / "dev" / "block" / f"{os.major(device[0])}:{os.minor(device[0])}").resolve()


def _read(file: Path) -> str:
    try:
        return os.fsdecode(file.read_bytes()).removesuffix("\n")
    except (OSError, ValueError):
        return ""
