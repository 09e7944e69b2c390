"""Which block devices and files have the same data: of real devices, and as a sysfs of a test says it."""

import errno
import os
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import pytest

from lockd.linux.block_devices import Extent, Extents, any_file, extents_of, no_file, whole
from lockd.linux.file_identity import Identity, identity_of
from tests.lock_fixtures import partitioned
from tests.without_descriptors import without_descriptors


class Sysfs:
    """A sysfs of a test. Each device has a number in the order in which they are made.

    :param directory: where it is.
    """

    def __init__(self, directory: Path) -> None:
        self.root = directory
        (directory / "dev" / "block").mkdir(parents=True)
        self._identities: dict[str, Identity] = {}
        self._directories: dict[str, Path] = {}

    def device(self, name: str, on: tuple[str, ...] = (), *, part_of: str = "", **files: str) -> None:
        """Make a device: on which it is, of which disk it is a partition, and what its files say."""
        number = len(self._identities)
        self._identities[name] = (os.makedev(8, number), -1)
        directory = self._directories[name] = self._directories.get(part_of, self.root / "devices") / name
        (directory / "slaves").mkdir(parents=True)
        (directory / "loop").mkdir()
        (directory / "dev").write_text(f"8:{number}\n")
        (self.root / "dev" / "block" / f"8:{number}").symlink_to(directory)
        for lower in on:
            (directory / "slaves" / lower).symlink_to(self._directories[lower])
        for file, text in files.items():
            (directory / file.replace("_in_", "/")).parent.mkdir(exist_ok=True)
            (directory / file.replace("_in_", "/")).write_text(f"{text}\n")

    def partition(self, disk: str, number: int, start: int, size: int) -> None:
        """Make a partition of a disk: its first sector, and how many it has."""
        name = f"{disk}p{number}" if disk[-1].isdigit() else f"{disk}{number}"
        self.device(name, part_of=disk, partition=f"{number}", start=f"{start}", size=f"{size}")

    def loop(self, name: str, file: Path | str, offset: int = 0, sizelimit: int = 0) -> None:
        """Make a loop device."""
        self.device(
            name,
            loop_in_backing_file=str(file),
            loop_in_offset=f"{offset}",
            loop_in_sizelimit=f"{sizelimit}",
        )

    def identity(self, name: str) -> Identity:
        return self._identities[name]

    def extents(self, name: str) -> Extents:
        return extents_of(self.identity(name), sysfs=self.root)

    def related(self) -> set[frozenset[str]]:
        """Return all pairs of devices that are related."""
        extents: Mapping[str, Extents] = {name: self.extents(name) for name in self._identities}
        return {
            frozenset({one, other})
            for one, other in combinations(self._identities, 2)
            if any(mine.overlaps(theirs) for mine in extents[one] for theirs in extents[other])
        }


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path / "sys")


def pairs(*names: str) -> set[frozenset[str]]:
    return {frozenset(name.split()) for name in names}


def test_a_disk_and_its_partitions(sysfs: Sysfs) -> None:
    sysfs.device("sda")
    sysfs.partition("sda", 1, 2048, 1000)
    sysfs.partition("sda", 2, 3048, 1000)
    sysfs.device("sdb")
    assert sysfs.related() == pairs("sda sda1", "sda sda2")


def test_partitions_that_overlap(sysfs: Sysfs) -> None:
    """As partx(8) can make them, or a table that is damaged."""
    sysfs.device("sda")
    sysfs.partition("sda", 1, 2048, 1000)
    sysfs.partition("sda", 2, 3047, 1000)
    sysfs.device("sda3", part_of="sda", partition="3")  # where it is, is not known
    assert sysfs.related() == pairs("sda sda1", "sda sda2", "sda sda3", "sda1 sda2")


def test_an_extended_partition_and_a_logical_one(sysfs: Sysfs) -> None:
    """The kernel gives the extended one 1 KiB, which is not of the logical one."""
    sysfs.device("sda")
    sysfs.partition("sda", 4, 4096, 2)
    sysfs.partition("sda", 5, 4098, 1000)
    assert sysfs.related() == pairs("sda sda4", "sda sda5")


def test_logical_volumes_and_what_they_are_on(sysfs: Sysfs) -> None:
    sysfs.device("sda")
    sysfs.partition("sda", 1, 2048, 1000)
    sysfs.partition("sda", 2, 3048, 1000)
    sysfs.device("dm-0", ("sda2",), dm_in_uuid="LVM-Yg3nS1")
    sysfs.device("dm-1", ("sda2",), dm_in_uuid="LVM-Yg3nS2")
    sysfs.device("dm-2", ("dm-1",), dm_in_uuid="CRYPT-LUKS2-0f2a")
    assert sysfs.related() == pairs(
        "sda sda1", "sda sda2", "dm-0 sda2", "dm-0 sda", "dm-1 sda2", "dm-1 sda", "dm-2 dm-1", "dm-2 sda2",
        "dm-2 sda",
    )  # fmt: skip


def test_two_paths_to_one_disk(sysfs: Sysfs) -> None:
    for path in ("sda", "sdb"):
        sysfs.device(path, device_in_wwid="naa.600140512345678")
        for number in (1, 2):
            sysfs.partition(path, number, 2048 * number, 2048)
    sysfs.device("dm-0", ("sda", "sdb"), dm_in_uuid="mpath-3600140512345678")
    sysfs.device("dm-1", ("dm-0",), dm_in_uuid="part1-mpath-3600140512345678")
    sysfs.device("sdc", device_in_wwid="naa.600140587654321")
    disks = ("sda", "sdb", "dm-0")
    related = {frozenset(pair) for pair in combinations(disks, 2)}
    related |= {
        frozenset({f"{path}{number}", disk}) for path in ("sda", "sdb") for number in "12" for disk in disks
    }
    related |= pairs("sda1 sdb1", "sda2 sdb2", "dm-1 dm-0", "dm-1 sda", "dm-1 sdb")
    assert sysfs.related() == related


def test_a_raid_and_what_it_is_made_of(sysfs: Sysfs) -> None:
    for disk in ("sda", "sdb"):
        sysfs.device(disk)
        sysfs.partition(disk, 1, 2048, 1000)
    sysfs.device("md0", ("sda1", "sdb1"))
    sysfs.partition("md0", 1, 8, 100)
    sysfs.partition("md0", 2, 108, 100)
    lower = ("sda", "sda1", "sdb", "sdb1")
    related = {frozenset({upper, disk}) for upper in ("md0", "md0p1", "md0p2") for disk in lower}
    assert sysfs.related() == related | pairs("sda sda1", "sdb sdb1", "md0 md0p1", "md0 md0p2")


def test_two_paths_to_one_namespace(sysfs: Sysfs) -> None:
    sysfs.device("nvme0n1", wwid="eui.0025388b01001234")
    sysfs.device("nvme1n1", wwid="eui.0025388b01001234")
    sysfs.device("nvme2n1", wwid="nvme.1b36-61-51454d55-00000001")
    sysfs.device("nvme3n1", wwid="nvme.1b36-61-51454d55-00000001")
    assert sysfs.related() == pairs("nvme0n1 nvme1n1")


@pytest.mark.parametrize(
    "name", ["t10.ATA     QEMU HARDDISK   QM00001", "eui.0000000000000000", "naa.", "", "uuid.0000-00"]
)
def test_a_name_that_many_disks_may_have_proves_nothing(sysfs: Sysfs, name: str) -> None:
    sysfs.device("sda", device_in_wwid=name)
    sysfs.device("sdb", device_in_wwid=name)
    assert sysfs.related() == set()


def test_a_circle_ends(sysfs: Sysfs) -> None:
    sysfs.device("dm-0", ("dm-0",))
    sysfs.device("dm-1", ("dm-0",))
    assert sysfs.related() == pairs("dm-0 dm-1")


def test_a_loop_device_on_a_file_and_what_is_on_it(sysfs: Sysfs, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    sysfs.loop("loop0", file)
    sysfs.partition("loop0", 1, 2, 4)
    sysfs.loop("loop1", f"{tmp_path}/removed (deleted)")
    identity = identity_of(file.stat())
    disk, partition = sysfs.identity("loop0"), sysfs.identity("loop0p1")
    assert sysfs.extents("loop0") == {whole(disk), whole(identity)}
    assert sysfs.extents("loop0p1") == {
        whole(partition),
        Extent(disk, 1024, 3072, is_all=True),
        Extent(identity, 1024, 3072, is_all=True),
    }
    assert sysfs.extents("loop1") == {whole(sysfs.identity("loop1"))}
    assert extents_of(disk, no_file, sysfs.root) == {whole(disk)}


def test_loop_devices_of_one_file(sysfs: Sysfs, tmp_path: Path) -> None:
    """A loop device without a limit is its file, and a second one is too."""
    file = tmp_path / "file"
    file.touch()
    os.link(file, tmp_path / "link")
    sysfs.loop("loop0", file)
    sysfs.loop("loop1", tmp_path / "link")
    sysfs.loop("loop2", file, 0, 4096)
    sysfs.loop("loop3", file, 4096)
    sysfs.partition("loop0", 1, 0, 8)
    sysfs.partition("loop1", 1, 0, 8)
    sysfs.partition("loop1", 2, 8, 8)
    sysfs.partition("loop3", 1, 8, 8)
    assert sysfs.related() == pairs(
        "loop0 loop1", "loop0 loop2", "loop0 loop3", "loop1 loop2", "loop1 loop3",
        "loop0p1 loop0", "loop0p1 loop1", "loop0p1 loop2", "loop0p1 loop1p1",
        "loop1p1 loop0", "loop1p1 loop1", "loop1p1 loop2",
        "loop1p2 loop0", "loop1p2 loop1", "loop1p2 loop3",
        "loop3p1 loop0", "loop3p1 loop1", "loop3p1 loop3",
    )  # fmt: skip


def test_a_loop_device_of_a_device(sysfs: Sysfs, tmp_path: Path) -> None:
    """losetup(8) takes any node of a block device as the file."""
    if os.geteuid() != 0:
        pytest.skip("making a device node needs root")
    sysfs.device("sda")
    sysfs.partition("sda", 1, 8, 8)
    sysfs.partition("sda", 2, 16, 8)
    node = tmp_path / "node"
    os.mknod(node, 0o60600, sysfs.identity("sda")[0])
    sysfs.loop("loop0", node, 4096, 4096)
    assert sysfs.related() == pairs("sda sda1", "sda sda2", "sda loop0", "sda1 loop0")


def test_a_device_that_sysfs_does_not_know_is_related_to_nothing(sysfs: Sysfs) -> None:
    unknown = (os.makedev(4000, 7), -1)
    assert extents_of(unknown, sysfs=sysfs.root) == {whole(unknown)}


def test_real_devices(tmp_path: Path) -> None:
    with partitioned(tmp_path / "file") as (file, disk, partitions):
        below = [identity_of(path.stat()) for path in (file, disk)]
        assert extents_of(below[1]) == {whole(identity) for identity in below}
        for partition, first in zip(partitions, (64, 1024), strict=True):
            identity = identity_of(partition.stat())
            start, end = first * 512, (first + 512) * 512
            assert extents_of(identity) == {
                whole(identity),
                *(Extent(lower, start, end, is_all=True) for lower in below),
            }


@pytest.mark.parametrize(
    ("path", "is_one"), [("/", True), ("/images/disk", True), ("", False), ("disk", False)]
)
def test_only_absolute_paths_are_looked_at(path: str, is_one: bool) -> None:
    """sysfs says nothing for a loop device without a file."""
    assert any_file(path) == is_one


def test_a_shortage_is_not_taken_for_a_device_without_relations(sysfs: Sysfs) -> None:
    """Otherwise a disk and its partition would be granted to two owners."""
    sysfs.device("sda")
    sysfs.partition("sda", 1, 2048, 1000)
    with without_descriptors(), pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        sysfs.extents("sda1")
