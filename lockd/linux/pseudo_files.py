"""Files that are on no disk: the kernel makes up what is in them (proc(5), sysfs(5), cgroups(7), namespaces(7))."""

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from lockd.linux.mount_table import Mount

_TYPES: Final = frozenset(
    {
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "fusectl",
        "proc",
        "pstore",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    }
)
"""Types of file systems that have such files only."""

_NAMESPACE: Final = "/proc/self/ns/mnt"
"""It leads to a file of the kernel's file system for namespaces, which the mount table does not list."""


def pseudo_devices(mounts: Iterable[Mount]) -> frozenset[int]:
    """Return the device numbers that such files have (``st_dev`` in stat(2)).

    :param mounts: the mounts of this process.
    :returns: the numbers of these file systems, as far as they are mounted, and that of namespaces.
    """
    devices = {mount.device for mount in mounts if mount.kind in _TYPES}
    with suppress(OSError):
        devices.add(os.stat(_NAMESPACE).st_dev)
    return frozenset(devices)
