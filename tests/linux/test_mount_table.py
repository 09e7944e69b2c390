"""The mount table: how it is read, and which mount a path is on. Each test has a mount namespace of its own."""

import os
import subprocess
from pathlib import Path

import pytest

from lockd.linux.mount_table import MOUNTINFO, Mount, MountChanges, MountTable, parse
from tests.lock_fixtures import mount_local, mount_slow
from tests.private_mounts import mount, move, unmount

NAMES = [
    b"a b", b"tab\t.", b"new\nline", b"back\\slash", b"\\040", b"carriage\rreturn", b"form\x0cfeed",
    b"vertical\x0btab",
    b"hash#", b" - ", b"-", "no-break\u00a0space".encode(), "em\u2003space".encode(), "line\u2028end".encode(),
    b"next\xc2\x85line", b"unit\x1fseparator", "Köln".encode(), b"\xff\xfe",
]  # fmt: skip
"""Names with every kind of blank and line break, and with the characters that have a meaning in mountinfo."""


def mount_of(path: Path | str) -> Mount:
    """Return the mount of a path as the kernel lists it now."""
    return MountTable.read().mount_of(str(path))


@pytest.mark.parametrize("name", NAMES)
def test_a_mount_point_may_have_any_name(tree: Path, name: bytes) -> None:
    point = Path(os.fsdecode(os.fsencode(tree) + b"/" + name))
    before = mount_of(point)
    mount_local(point)
    assert (mount_of(point).point, mount_of(point).kind) == (str(point), "tmpfs")
    assert mount_of(point / "disk") == mount_of(point)
    assert mount_of(tree / "beside") == mount_of(f"{point}-not/disk") == before


@pytest.mark.parametrize("name", NAMES)
def test_a_source_may_have_any_name(tree: Path, name: bytes) -> None:
    subprocess.run([b"mount", b"-i", b"-t", b"ramfs", b"--", name, os.fsencode(tree)], check=True)
    assert (mount_of(tree).kind, mount_of(tree).source) == ("ramfs", os.fsdecode(name))


def test_the_options_are_those_of_the_mount_and_of_the_file_system(tree: Path) -> None:
    point = tree / "point"
    point.mkdir()
    mount("tmpfs", point, "size=64k,mode=700")
    subprocess.run(["mount", "-o", "remount,bind,noatime", str(point)], check=True)
    options = mount_of(point).options.split(",")
    assert {"rw", "noatime", "size=64k", "mode=700"} <= set(options)


def test_a_line_is_read_with_and_without_optional_fields() -> None:
    """The optional fields tell of mount propagation (proc(5))."""
    lines = (
        b"21 1 8:1 / / rw,relatime shared:1 master:2 - ext4 /dev/sda1 rw,errors=remount-ro\n"
        b"36 21 0:30 /sub /mnt\\040point ro - nfs4 server:/a\\134b rw,vers=4.2,local_lock=none\n"
    )
    assert parse(lines) == [
        Mount(21, 1, os.makedev(8, 1), "/", "ext4", "/dev/sda1", "rw,relatime,rw,errors=remount-ro"),
        Mount(
            36, 21, os.makedev(0, 30), "/mnt point", "nfs4", "server:/a\\b", "ro,rw,vers=4.2,local_lock=none"
        ),
    ]


def test_what_the_kernel_lists_is_what_the_table_has() -> None:
    assert len(MountTable.read().mounts) == Path(MOUNTINFO).read_bytes().count(b"\n")


def test_the_mount_of_a_path_is_the_innermost_one() -> None:
    assert mount_of("/proc/self/status").kind == "proc"
    assert mount_of("/proc/missing/below").point == "/proc"
    assert mount_of("/").point == "/"


def test_what_is_mounted_on_a_mount_hides_it(tree: Path) -> None:
    point = mount_slow(tree / "point")
    assert mount_of(point / "disk").kind == "overlay"
    mount_local(point)
    assert mount_of(point / "disk").kind == "tmpfs"
    mount_slow(tree / "other")
    move(tree / "other", point)
    assert mount_of(point / "disk").kind == "overlay"
    unmount(point)
    assert mount_of(point / "disk").kind == "tmpfs"
    unmount(point)
    assert mount_of(point / "disk").kind == "overlay"
    assert mount_of(point / "disk").point == str(point)


def test_the_last_one_mounted_is_not_the_one_on_top_where_one_was_moved(tree: Path) -> None:
    older = mount_slow(tree / "older")
    newer = mount_local(tree / "newer")
    number = mount_of(older).number
    move(older, newer)
    assert mount_of(newer / "disk").number == number


def test_what_is_below_a_hidden_mount_is_hidden_too(tree: Path) -> None:
    point = mount_local(tree / "point")
    inner = mount_slow(point / "inner")
    assert mount_of(inner / "disk").point == str(inner)
    on_top = mount_local(point)
    (on_top / "inner").mkdir()
    assert mount_of(inner / "disk") == mount_of(on_top)
    assert mount_of(on_top).point == str(point)


def test_a_table_without_the_root_directory_has_a_local_one() -> None:
    """As after chroot(2): the kernel lists only the mounts that can be reached."""
    table = MountTable(parse(b"36 21 0:30 / /mnt rw - nfs4 server:/ rw\n"))
    assert (table.mount_of("/disk").point, table.mount_of("/disk").kind) == ("/", "rootfs")
    assert table.mount_of("/mnt/disk").kind == "nfs4"


def test_a_mount_that_is_its_own_parent_is_found() -> None:
    """The root of a mount namespace may be listed so."""
    table = MountTable(parse(b"1 1 0:2 / / rw - ext4 /dev/sda1 rw\n2 1 0:30 / /mnt rw - nfs4 server:/ rw\n"))
    assert table.mount_of("/disk").kind == "ext4"
    assert table.mount_of("/mnt/disk").kind == "nfs4"


def test_the_kernel_reports_each_change_of_the_mounts_once(tree: Path) -> None:
    changes = MountChanges()
    with changes._file:  # it stays open as long as the daemon runs
        changes.happened()
        assert not changes.happened()
        slow = mount_slow(tree / "slow")
        assert changes.happened()
        assert not changes.happened()
        assert MountTable(parse(changes.read())).mount_of(f"{slow}/disk").point == str(slow)
        unmount(slow)
        assert changes.happened()
        assert MountTable(parse(changes.read())).mount_of(f"{slow}/disk").point == str(tree)
