"""Which block devices and files have the same data: of real devices, and as a sysfs of a test says it."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from lockd.linux.block_devices import Relations, relations_of
from lockd.linux.file_identity import Identity, identity_of
from tests.lock_fixtures import partitioned


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

    def identity(self, name: str) -> Identity:
        return self._identities[name]

    def relations(self, name: str) -> Relations:
        return relations_of(self.identity(name), sysfs=self.root)

    def related(self) -> set[frozenset[str]]:
        """Return all pairs of devices that are related."""
        relations: Mapping[str, Relations] = {name: self.relations(name) for name in self._identities}
        return {
            frozenset({one, other})
            for one, upper in relations.items()
            for other, lower in relations.items()
            if one != other and (upper.own | upper.below) & lower.own
        }


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path / "sys")


def pairs(*names: str) -> set[frozenset[str]]:
    return {frozenset(name.split()) for name in names}


def test_a_disk_and_its_partitions(sysfs: Sysfs) -> None:
    sysfs.device("sda")
    sysfs.device("sda1", part_of="sda", partition="1")
    sysfs.device("sda2", part_of="sda", partition="2")
    sysfs.device("sdb")
    assert sysfs.related() == pairs("sda sda1", "sda sda2")


def test_logical_volumes_and_what_they_are_on(sysfs: Sysfs) -> None:
    sysfs.device("sda")
    sysfs.device("sda1", part_of="sda", partition="1")
    sysfs.device("sda2", part_of="sda", partition="2")
    sysfs.device("dm-0", ("sda2",))
    sysfs.device("dm-1", ("sda2",))
    sysfs.device("dm-2", ("dm-1",))
    assert sysfs.related() == pairs(
        "sda sda1", "sda sda2", "dm-0 sda2", "dm-0 sda", "dm-1 sda2", "dm-1 sda", "dm-2 dm-1", "dm-2 sda2",
        "dm-2 sda",
    )  # fmt: skip


def test_two_paths_to_one_disk(sysfs: Sysfs) -> None:
    for path in ("sda", "sdb"):
        sysfs.device(path, device_in_wwid="naa.600140512345678")
        for number in "12":
            sysfs.device(f"{path}{number}", part_of=path, partition=number)
    sysfs.device("dm-0", ("sda", "sdb"))
    sysfs.device("dm-1", ("dm-0",))
    sysfs.device("sdc", device_in_wwid="naa.600140587654321")
    disks = {"sda", "sdb", "dm-0"}
    related = {frozenset({one, other}) for one in disks for other in disks if one != other}
    related |= {
        frozenset({f"{path}{number}", disk})
        for path in ("sda", "sdb")
        for number in "12"
        for disk in disks - {"dm-0"}
    }
    related |= pairs("sda1 sdb1", "sda2 sdb2", "dm-1 dm-0", "dm-1 sda", "dm-1 sdb")
    assert sysfs.related() == related


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
    sysfs.device("loop0", loop_in_backing_file=str(file))
    sysfs.device("loop0p1", part_of="loop0", partition="1")
    sysfs.device("loop1", loop_in_backing_file=f"{tmp_path}/removed (deleted)")
    identity = identity_of(file.stat())
    assert sysfs.relations("loop0").below == {identity}
    assert sysfs.relations("loop0p1").below == {identity, sysfs.identity("loop0")}
    assert sysfs.relations("loop1").below == set()
    skipped = relations_of(sysfs.identity("loop0"), lambda path: path != str(file), sysfs.root)
    assert skipped.below == set()


def test_a_device_that_sysfs_does_not_know_is_related_to_nothing(sysfs: Sysfs) -> None:
    unknown = (os.makedev(4000, 7), -1)
    assert relations_of(unknown, sysfs=sysfs.root) == Relations(frozenset({unknown}), frozenset())


def test_real_devices(tmp_path: Path) -> None:
    with partitioned(tmp_path / "file") as (file, disk, partitions):
        identities = [identity_of(path.stat()) for path in (file, disk, *partitions)]
        assert relations_of(identities[1]) == Relations(
            frozenset({identities[1]}), frozenset({identities[0]})
        )
        for partition in identities[2:]:
            assert relations_of(partition) == Relations(frozenset({partition}), frozenset(identities[:2]))
