"""What is known of a file system by its type and its options."""

import pytest

from lockd.linux.file_systems import LOCAL_TYPES, Reach, lists_locks, local_lock_option, may_block, reach_of
from lockd.linux.mount_table import Mount


def mounted(kind: str, options: str) -> Mount:
    return Mount(36, 21, 0, "/mnt", kind, "server:/export", options)


def test_what_may_wait_for_others_is_not_local() -> None:
    assert not LOCAL_TYPES & {
        "nfs",
        "nfs4",
        "cifs",
        "ceph",
        "9p",
        "fuse",
        "fuse.sshfs",
        "overlay",
        "autofs",
        "gfs2",
    }
    assert {"ext4", "xfs", "btrfs", "tmpfs", "devtmpfs"} <= LOCAL_TYPES


def test_what_is_not_known_to_be_local_may_block() -> None:
    assert not any(map(may_block, LOCAL_TYPES))
    assert all(map(may_block, ["nfs4", "fuse.sshfs", "overlay", "a type of the next kernel"]))


@pytest.mark.parametrize(
    ("kind", "listed"),
    [
        ("ext4", True),
        ("nfs4", True),
        ("overlay", True),
        ("fuse", False),
        ("fuseblk", False),
        ("fuse.sshfs", False),
        ("fuse.glusterfs", False),
        ("virtiofs", False),
    ],
)
def test_the_kernel_lists_no_locks_of_fuse(kind: str, listed: bool) -> None:
    assert lists_locks(kind) is listed


@pytest.mark.parametrize(
    ("kind", "options", "reach"),
    [
        ("nfs4", "rw,relatime,local_lock=none", Reach.ALL_HOSTS),
        ("nfs", "rw,local_lock=none", Reach.ALL_HOSTS),
        ("nfs", "rw,nolock,local_lock=all", Reach.BROKEN),
        ("nfs", "rw,local_lock=posix", Reach.BROKEN),
        ("nfs", "rw,local_lock=flock", Reach.ALL_HOSTS),
        ("cifs", "rw,nobrl", Reach.BROKEN),
        ("gfs2", "rw", Reach.ALL_HOSTS),
        ("gfs2", "rw,localflocks", Reach.BROKEN),
        ("ceph", "rw", Reach.ALL_HOSTS),
        ("fuse.glusterfs", "rw", Reach.UNKNOWN),
        ("virtiofs", "rw", Reach.UNKNOWN),
        ("ext4", "rw", Reach.THIS_HOST),
        ("tmpfs", "rw", Reach.THIS_HOST),
    ],
)
def test_how_far_locks_reach_is_known_by_kind_and_options(kind: str, options: str, reach: Reach) -> None:
    assert reach_of(mounted(kind, options)) is reach


@pytest.mark.parametrize(
    ("kind", "options", "option"),
    [
        ("nfs", "rw,nolock,local_lock=all", "local_lock=all"),
        ("nfs", "rw,local_lock=none", None),
        ("cifs", "rw,nobrl", "nobrl"),
        ("ext4", "rw,nolock", None),
        ("gfs2", "rw,lockproto=lock_nolock_not", None),
    ],
)
def test_the_option_that_hides_locks_from_other_hosts_is_named(
    kind: str, options: str, option: str | None
) -> None:
    assert local_lock_option(mounted(kind, options)) == option
