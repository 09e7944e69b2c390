"""Where the data of block devices are, as sysfs tells: which devices and files have the same data.

They are a disk and its partitions, a device-mapper or RAID device and what is below it, a loop device and its file, and
two paths to one disk. See Documentation/ABI/stable/sysfs-block of the kernel. Reading sysfs asks no device, so it does
not wait for one. The file of a loop device may be on any file system: to find its identity may block.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from lockd.linux.file_identity import Identity, identity_of, is_block_device
from lockd.linux.shortages import SHORTAGES

Data: TypeAlias = Identity | str
"""Stands for the data of a file, of a block device, or of a disk that has a worldwide name."""

SYSFS: Final = Path("/sys")

_END: Final = 1 << 63
"""No file or device has as many bytes (off_t)."""

_SECTOR: Final = 512
"""The unit of partitions in sysfs, whatever the sectors of the disk are."""

_MULTIPATH: Final = "mpath-"
"""The UUID of a device-mapper device begins with this if each of the devices below it is a path to the same disk
(multipath-tools)."""

_WORLDWIDE: Final = ("naa.", "eui.", "uuid.")
"""Names that no two disks in the world share (SPC, NVMe). A name made of vendor and serial number proves nothing: many
virtual disks and USB adapters have the same one."""

_EXTENTS_MAX: Final = 4096
"""How many extents are looked for at most: should devices be below themselves, the search ends."""


class Extent(NamedTuple):
    """Where data of a block device are: a range of bytes of a file, of a device or of a disk.

    :ivar data: what the range belongs to.
    :ivar start: its first byte.
    :ivar end: the byte after its last one.
    :ivar is_all: whether the device has the whole range. Otherwise it has some of it, and sysfs does not tell which
        part: that is in the table of a device-mapper device and in the metadata of a RAID.
    """

    data: Data
    start: int
    end: int
    is_all: bool

    def overlaps(self, other: "Extent") -> bool:
        """Return whether two extents have bytes in common, for sure.

        :param other: the other extent.
        :returns: False if they belong to different things, or may be different parts.
        """
        if self.data != other.data:
            return False
        if self.is_all and other.is_all:
            return self.start < other.end and other.start < self.end
        return (self.is_all and _contains(self, other)) or (other.is_all and _contains(other, self))


Extents: TypeAlias = frozenset[Extent]


def _contains(outer: Extent, inner: Extent) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def whole(data: Data) -> Extent:
    """Return the extent of all bytes of a file, device or disk.

    :param data: what stands for it.
    :returns: the extent.
    """
    return Extent(data, 0, _END, is_all=True)


def any_file(path: str) -> bool:
    """Return whether a path may be looked at, where that may block: if it is one.

    :param path: the path.
    :returns: False if it is not absolute.
    """
    return path.startswith("/")


def no_file(path: str) -> bool:  # noqa: ARG001
    """Return that a path may not be looked at.

    :param path: the path.
    :returns: False.
    """
    return False


def extents_of(
    device: Identity, may_look_at: Callable[[str], bool] = any_file, sysfs: Path = SYSFS
) -> Extents:
    """Return where the data of a block device are: on itself, and on everything below it.

    This may block where the file of a loop device may.

    :param device: the identity of the device.
    :param may_look_at: returns whether the file of a loop device may be looked at; otherwise it is left out.
    :param sysfs: where sysfs is mounted.
    :returns: all its extents. What cannot be read is left out.
    :raises OSError: sysfs cannot be read now, as descriptors or memory have run out.
    """
    found = {whole(device)}
    to_look_below = list(found)
    while to_look_below and len(found) < _EXTENTS_MAX:
        extent = to_look_below.pop()
        if isinstance(extent.data, str) or not is_block_device(extent.data):
            continue
        for lower in _directly_below(extent.data, may_look_at, sysfs):
            below = _part_of(lower, extent)
            if below not in found:
                found.add(below)
                to_look_below.append(below)
    return frozenset(found)


def _part_of(below: Extent, part: Extent) -> Extent:
    """Return where a part of a device is one level below, if all of the device is in ``below``."""
    if not below.is_all:
        return below
    start, end = (min(below.start + position, below.end) for position in (part.start, part.end))
    return Extent(below.data, start, end, part.is_all)


def _directly_below(device: Identity, may_look_at: Callable[[str], bool], sysfs: Path) -> Iterator[Extent]:
    """Yield where all the data of a device are, one level below it."""
    directory = (sysfs / "dev" / "block" / f"{os.major(device[0])}:{os.minor(device[0])}").resolve()
    for name in _names(directory):
        yield whole(name)
    if (directory / "partition").exists():
        start, size = (_number(directory / name) for name in ("start", "size"))
        for disk in _identities([directory.parent]):
            yield _range(disk, start, size, _SECTOR)
    with _left_out():
        is_all = _read(directory / "dm" / "uuid").startswith(_MULTIPATH)
        for lower in _identities(list((directory / "slaves").iterdir())):
            yield Extent(lower, 0, _END, is_all)
    yield from _loop(directory / "loop", may_look_at)


def _loop(directory: Path, may_look_at: Callable[[str], bool]) -> Iterator[Extent]:
    file = _read(directory / "backing_file")
    if may_look_at(file):
        start, limit = (_number(directory / name) for name in ("offset", "sizelimit"))
        size = _END if limit == 0 else limit  # 0 is no limit (loop(4))
        # It may be removed, or in another mount namespace.
        with _left_out():
            yield _range(identity_of(os.stat(file)), start, size, 1)


def _range(data: Identity, start: int | None, size: int | None, unit: int) -> Extent:
    if start is None or size is None:
        return Extent(data, 0, _END, is_all=False)
    return Extent(data, start * unit, min((start + size) * unit, _END), is_all=True)


def _identities(directories: list[Path]) -> Iterator[Identity]:
    for directory in directories:
        major, colon, minor = _read(directory / "dev").partition(":")
        if colon:
            yield os.makedev(int(major), int(minor)), -1


def _names(directory: Path) -> Iterator[str]:
    """Yield the worldwide names of a disk."""
    for place in (directory / "wwid", directory / "device" / "wwid"):  # NVMe; SCSI
        name = _read(place)
        if name.startswith(_WORLDWIDE) and name.partition(".")[2].strip("0-"):
            yield name


def _number(file: Path) -> int | None:
    text = _read(file)
    return int(text) if text.isdecimal() else None


def _read(file: Path) -> str:
    with _left_out():
        return os.fsdecode(file.read_bytes()).removesuffix("\n")
    return ""


@contextmanager
def _left_out() -> Iterator[None]:
    """Leave out what cannot be read or is not there; raise if that is not known."""
    try:
        yield
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
    except ValueError:
        pass
