"""What is known of file systems by their type: which may block, which list their locks, whose locks other hosts see."""

from enum import Enum
from typing import Final

from lockd.linux.mount_table import Mount

LOCAL_TYPES: Final = frozenset(
    [
        "bcachefs",
        "bpf",
        "btrfs",
        "cgroup",
        "cgroup2",
        "configfs",
        "cramfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "erofs",
        "exfat",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "hugetlbfs",
        "iso9660",
        "jfs",
        "minix",
        "mqueue",
        "msdos",
        "nilfs2",
        "ntfs3",
        "proc",
        "pstore",
        "ramfs",
        "reiserfs",
        "rootfs",
        "securityfs",
        "squashfs",
        "sysfs",
        "tmpfs",
        "tracefs",
        "ubifs",
        "udf",
        "vfat",
        "xfs",
        "zfs",
    ]
)
"""File systems whose calls wait for a local device at most. All others may block: those that ask a server over a
network (nfs, cifs, ceph, gfs2, ocfs2, 9p, lustre), those that ask another process (fuse), and those that may be
mounted on top of either (overlay, autofs)."""


def may_block(kind: str) -> bool:
    """Return whether a call on a file system may wait for another host or another process.

    :param kind: the type of the file system, as the mount table has it.
    :returns: False where it waits for a local device at most.
    """
    return kind not in LOCAL_TYPES


def lists_locks(kind: str) -> bool:
    """Return whether the kernel lists the record locks of a file system in /proc/locks and fdinfo.

    FUSE asks its server for each lock and keeps no list itself: GlusterFS, ceph-fuse, MooseFS and others, and virtiofs,
    whose server is the host. If the server does not support locks, the kernel keeps and lists them; nobody can tell
    from the type. The network file systems of the kernel keep a list.

    :param kind: the type of the file system, as the mount table has it.
    :returns: False where a lock may be held and not listed.
    """
    return not kind.startswith("fuse") and kind != "virtiofs"


# Which hosts see the locks

_LOCAL_LOCK_OPTIONS: Final = {
    "nfs": frozenset({"nolock", "local_lock=all", "local_lock=posix"}),
    "nfs4": frozenset({"nolock", "local_lock=all", "local_lock=posix"}),
    "cifs": frozenset({"nobrl", "forcemand"}),
    "smb3": frozenset({"nobrl", "forcemand"}),
    "gfs2": frozenset({"lockproto=lock_nolock", "localflocks"}),
    "ocfs2": frozenset({"localflocks"}),
    "lustre": frozenset({"localflock", "noflock"}),
}
"""File systems that several hosts share, and the mount options that hide record locks from the other hosts: nfs(5),
mount.cifs(8), gfs2(5), mount.lustre(8), Documentation/filesystems/ocfs2.rst."""

_SHARED_TYPES: Final = frozenset(_LOCAL_LOCK_OPTIONS) | {"ceph", "gpfs", "beegfs"}

_UNKNOWN_TYPES: Final = frozenset({"9p", "virtiofs", "overlay", "autofs"})


class Reach(Enum):
    """Which hosts see the record locks of a file system."""

    ALL_HOSTS = "all hosts"
    THIS_HOST = "this host"
    UNKNOWN = "unknown"
    BROKEN = "broken"
    """Several hosts share the file system, and each sees its own locks only: two of them can lock one file."""


def reach_of(mount: Mount) -> Reach:
    """Return which hosts see the record locks on a mounted file system.

    :param mount: the mount.
    :returns: how far its locks reach.
    """
    if mount.kind in _SHARED_TYPES:
        return Reach.ALL_HOSTS if local_lock_option(mount) is None else Reach.BROKEN
    if mount.kind.startswith("fuse") or mount.kind in _UNKNOWN_TYPES:
        return Reach.UNKNOWN
    return Reach.THIS_HOST


def local_lock_option(mount: Mount) -> str | None:
    """Return the mount option that hides the locks of a shared file system from the other hosts.

    :param mount: the mount.
    :returns: the option, the first in alphabetical order where there are several; None where there is none.
    """
    found = sorted(_LOCAL_LOCK_OPTIONS.get(mount.kind, frozenset()).intersection(mount.options.split(",")))
    return found[0] if found else None
