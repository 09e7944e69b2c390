"""Which paths may block: with real mounts, in a mount namespace of each test."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lockd.engines.files.slow_mounts import SlowMounts
from lockd.linux.mount_table import MOUNTINFO, MountTable
from tests.lock_fixtures import mount_local, mount_slow
from tests.private_mounts import bind, mount, move, unmount


def slow_mount(path: Path | str) -> str | None:
    """Return the mount point that calls on a path may block on, as of now."""
    return SlowMounts().slow_mount(str(path))


def test_files_below_a_slow_mount_may_block(tree: Path) -> None:
    slow = mount_slow(tree / "slow")
    assert slow_mount(slow / "disk") == str(slow)
    assert slow_mount(slow / "missing" / "directory" / "disk") == str(slow)
    assert slow_mount(f"{slow}//./disk") == str(slow)
    assert slow_mount(f"{slow}/") == str(slow)


def test_files_beside_a_slow_mount_do_not(tree: Path) -> None:
    slow = mount_slow(tree / "slow")
    assert slow_mount(tree / "disk") is None
    assert slow_mount(f"{slow}-not/disk") is None
    assert slow_mount(f"{slow}/../disk") == str(slow)  # the slow file system looks ".." up
    assert slow_mount("/disk") is None


def test_a_path_that_takes_long_to_follow_may_lead_anywhere(tree: Path) -> None:
    deep = "/deeper" * 130
    assert slow_mount(f"{tree}{deep}/disk") == "/"
    assert slow_mount(f"{tree}/{'deeper' * 700}/disk") == "/"  # longer than any path that can be opened
    (tree / "0").symlink_to(tree)
    for number in range(35):
        (tree / str(number + 1)).symlink_to(f"{number}{f'/../{tree.name}' * 2}")
    assert slow_mount(tree / "35" / "disk") == "/"
    assert slow_mount(tree / "2" / "disk") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory to another user needs root")
def test_what_another_user_can_replace_may_lead_anywhere(tree: Path) -> None:
    slow = mount_slow(tree / "home" / "slow")
    home, link = tree / "home", tree / "link"
    (home / "images").mkdir()
    link.symlink_to(home)
    assert slow_mount(home / "images" / "disk") is None
    os.chown(home, 1000, 1000)
    os.chown(link, 1000, 1000, follow_symlinks=False)
    assert slow_mount(home / "images" / "disk") == str(home)
    assert slow_mount(home / "images" / ".." / "disk") == str(home)
    assert slow_mount(link / "images" / "disk") == str(link)
    assert slow_mount(slow / "disk") == str(slow)
    assert slow_mount(home / "disk") is None  # the user cannot replace the directory itself
    for mode, place in (0o1777, None), (0o777, str(home)):
        os.chown(home, 0, 0)
        home.chmod(mode)
        assert slow_mount(home / "images" / "disk") == place


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory to another user needs root")
def test_in_a_directory_like_tmp_another_user_can_replace_what_they_own_and_make_what_is_missing(
    tree: Path,
) -> None:
    tree.chmod(0o1777)
    for name in ("own", "foreign"):
        (tree / name).mkdir()
        (tree / f"{name} link").symlink_to(tree / "own")
    os.chown(tree / "foreign", 1000, 1000)
    os.chown(tree / "foreign link", 1000, 1000, follow_symlinks=False)
    for name in ("own", "own link"):
        assert slow_mount(tree / name / "disk") is None
    for name in ("foreign", "foreign link", "missing"):
        assert slow_mount(tree / name / "disk") == str(tree / name)
        assert slow_mount(tree / name / "images" / "disk") == str(tree / name)
    assert slow_mount(tree / "disk") is None  # open(2) does not follow this one
    tree.chmod(0o755)
    for name in ("foreign", "foreign link", "missing"):
        assert slow_mount(tree / name / "disk") is None


def test_the_kernel_lists_no_locks_of_fuse(tree: Path) -> None:
    """A FUSE server keeps the locks itself. Nobody asks this one for anything, so it need not answer."""
    slow, hung = mount_slow(tree / "slow"), tree / "hung"
    hung.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    mount("fuse", hung, f"fd={device},rootmode=40000,user_id=0,group_id=0")
    mounts = SlowMounts()
    assert mounts.slow_mount(f"{hung}/disk") == str(hung)
    assert not mounts.lists_locks(str(hung), None)
    assert mounts.lists_locks(str(slow), None)
    assert mounts.lists_locks(None, None)
    fuse = next(one.device for one in MountTable.read().mounts if one.point == str(hung))
    assert not mounts.lists_locks("/home", fuse)  # a link in it has led there
    os.close(device)


def test_a_single_file_may_be_mounted_from_a_slow_server(tree: Path) -> None:
    slow = mount_slow(tree / "slow", file="disk")
    (tree / "local").touch()
    bind(slow / "disk", tree / "local")
    assert slow_mount(tree / "local") == str(tree / "local")
    assert slow_mount(tree / "other") is None
    assert slow_mount(slow) == str(slow)


def test_the_way_to_a_local_file_may_lead_through_a_slow_one(tree: Path) -> None:
    slow = mount_slow(tree / "slow")
    bind(tree / "slow.1", tree / "slow.2")
    (tree / "slow.1" / "inner").mkdir()
    mount_local(tree / "slow" / "inner")
    assert slow_mount(slow / "inner" / "disk") == str(slow)


def test_a_local_file_system_in_a_local_one_is_local(tree: Path) -> None:
    inner = mount_local(mount_local(tree / "outer") / "inner")
    assert slow_mount(inner / "disk") is None
    slow = mount_slow(inner / "slow")
    assert slow_mount(slow / "disk") == str(slow)


def test_links_to_directories_are_followed_and_the_last_one_is_not(tree: Path) -> None:
    slow = mount_slow(tree / "slow")
    (tree / "a" / "b").mkdir(parents=True)
    for name, target in {
        "absolute": str(slow),
        "relative": "slow",
        "chain": "a/to-relative",
        "a/to-relative": "../relative",
        "a/up": "..",
        "a/b/far": "../up/./slow/..",
        "loop": "loop",
        "a/one": "../a/two",
        "a/two": "one/x",
        "local": "a/b",
        "disk": "slow/disk",
    }.items():
        (tree / name).symlink_to(target)
    for name in ("absolute", "relative", "chain", "a/to-relative", "a/up/slow", "a/b/far"):
        assert slow_mount(tree / name / "disk") == str(slow), name
        assert slow_mount(tree / name / "..") is not None, name
    for name in ("loop", "a/one"):
        assert slow_mount(tree / name / "disk") == "/", name  # a thread finds out that it leads nowhere
    for name in ("local", "a/up", "a/up/local/../b"):
        assert slow_mount(tree / name / "disk") is None, name
    assert slow_mount(tree / "disk") is None
    assert slow_mount(f"{tree}/disk/") == str(slow)


@pytest.mark.parametrize(
    "name",
    [
        b"a b", b"tab\t.", b"new\nline", b"back\\slash", b"\\040", b"carriage\rreturn", b"form\x0cfeed",
        b"hash#", b" - ", "no-break\u00a0space".encode(), "em\u2003space".encode(), "line\u2028end".encode(),
        b"next\xc2\x85line",
        "Köln".encode(), b"\xff\xfe",
    ],
)  # fmt: skip
def test_mount_points_may_have_any_name(tree: Path, name: bytes) -> None:
    (tree / "layers").mkdir()
    slow = Path(os.fsdecode(os.fsencode(tree / "layers") + b"/" + name))
    slow.mkdir()
    (tree / "1").mkdir()
    (tree / "2").mkdir()
    mount("overlay", slow, f"lowerdir={tree}/1:{tree}/2")
    assert slow_mount(slow / "disk") == str(slow)
    assert slow_mount(slow.parent / "disk") is None


def test_what_is_mounted_on_a_mount_hides_it(tree: Path) -> None:
    point = mount_slow(tree / "point")
    assert slow_mount(point / "disk") == str(point)
    mount_local(point)
    assert slow_mount(point / "disk") is None
    mount_slow(tree / "other")
    move(tree / "other", point)
    assert slow_mount(point / "disk") == str(point)
    unmount(point)
    assert slow_mount(point / "disk") is None
    unmount(point)
    assert slow_mount(point / "disk") == str(point)


def test_the_last_one_mounted_is_not_the_one_on_top_where_one_was_moved(tree: Path) -> None:
    older = mount_slow(tree / "older")
    newer = mount_local(tree / "newer")
    move(older, newer)
    assert slow_mount(newer / "disk") == str(newer)


def test_what_is_below_a_hidden_mount_is_hidden_too(tree: Path) -> None:
    point = mount_local(tree / "point")
    mount_slow(point / "inner")
    assert slow_mount(point / "inner" / "disk") == str(point / "inner")
    mount_local(point)
    (point / "inner").mkdir()
    assert slow_mount(point / "inner" / "disk") is None


def test_the_root_directory_need_not_be_a_mount(tree: Path) -> None:
    """As in a chroot: the kernel lists only the mounts that can be reached."""
    mount_slow(tree / "slow")
    (tree / "proc").mkdir()
    bind(Path("/proc"), tree / "proc")
    program = (
        "import os, sys; from lockd.engines.files.slow_mounts import SlowMounts; os.chroot(sys.argv[1]); "
        "mounts = SlowMounts(); print(mounts.slow_mount('/slow/disk'), mounts.slow_mount('/disk'))"
    )
    command = [sys.executable, "-c", program, str(tree)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "/slow None\n"


def test_a_new_mount_is_known_once_the_mounts_are_read_again(tree: Path) -> None:
    mounts = SlowMounts()
    path = str(tree / "slow" / "disk")
    assert mounts.slow_mount(path) is None
    with open(MOUNTINFO, "rb") as watched:
        poll = select.poll()
        poll.register(watched, select.POLLPRI)
        assert poll.poll(0) == []
        mount_slow(tree / "slow")
        assert poll.poll(1000)
    mounts.refresh(MountTable.read().mounts)
    assert mounts.slow_mount(path) == str(tree / "slow")


def test_more_directories_than_are_remembered(tree: Path) -> None:
    mounts = SlowMounts()
    slow = mount_slow(tree / "slow")
    mounts.refresh(MountTable.read().mounts)
    for number in range(5000):
        assert mounts.slow_mount(f"{tree}/{number}/disk") is None
    assert mounts.slow_mount(f"{slow}/disk") == str(slow)


names = st.sampled_from([".", "..", "a", "b", "slow", "to-slow", "to-parent", "to-b", "missing", "hidden"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, max_size=8))
def test_no_path_that_leads_to_a_slow_mount_is_taken_for_local(tree: Path, parts: list[str]) -> None:
    if not (tree / "a").exists():
        (tree / "a" / "b").mkdir(parents=True)
        mount_slow(tree / "a" / "slow")
        mount_slow(tree / "a" / "hidden")
        mount_local(tree / "a" / "hidden")
        for directory in (tree, tree / "a", tree / "a" / "b"):
            (directory / "to-slow").symlink_to(tree / "a" / "slow")
            (directory / "to-parent").symlink_to("..")
            (directory / "to-b").symlink_to(os.path.relpath(tree / "a" / "b", directory))
    path = f"{tree}/{'/'.join(parts)}"
    slow = tree / "a" / "slow"
    on_the_way = [f"{tree}/{'/'.join(parts[:length])}" for length in range(len(parts) + 1)]
    leads_there = any(os.path.isdir(way) and os.stat(way).st_dev == slow.stat().st_dev for way in on_the_way)
    if leads_there or os.path.isdir(path):
        assert slow_mount(f"{path}/disk") == (str(slow) if leads_there else None)
