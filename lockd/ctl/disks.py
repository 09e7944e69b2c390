"""Which disk a lease file stands for, wherever that can be learned.

A lease file has the hash of a path for its name, and a hash cannot be read backwards: the paths that may be
meant are hashed, and compared. They are those of the guests' QEMU command lines and open files, and of the
images in a directory that the user names.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from lockd.client.errors import ClientError
from lockd.client.naming import lease_name, resource_of
from lockd.client.plugin_config import PluginConfig, read_plugin_config
from lockd.ctl.exits import Failure
from lockd.ctl.holdings import UNLISTED, Holding
from lockd.ctl.processes import disks_of
from lockd.linux.processes import all_pids, command_name

LEASE_NAME: Final = re.compile("[0-9a-f]{64}")
LVM_UUID: Final = re.compile("[0-9A-Za-z]{6}(?:-[0-9A-Za-z]{4}){5}-[0-9A-Za-z]{6}")


def disks_of_holdings(holdings: Iterable[Holding], images: str | None) -> dict[str, str]:
    """Return the disk of each lease file, by the file's path, wherever it can be learned.

    :param images: a directory with images that may be meant, if any.
    :raises Failure: that directory, or qemu-lockd.conf, cannot be read.
    """
    leases = [holding for holding in holdings if holding.kernel != UNLISTED]
    names = {os.path.basename(lease.path) for lease in leases}
    owners = {lease.pid for lease in leases if lease.pid is not None}
    paths = chain(paths_of_guests(owners), paths_of_images(images) if images is not None else ())
    found = disks_of_leases(names, paths, read_plugin_config())
    by_path = {lease.path: found.get(os.path.basename(lease.path)) for lease in leases}
    return {path: disk for path, disk in by_path.items() if disk is not None}


def disks_of_leases(names: Iterable[str], paths: Iterable[str], config: PluginConfig) -> dict[str, str]:
    """Return the disk of each lease name, as far as it is one of ``paths``; stops when all are found."""
    wanted = set(names)
    found: dict[str, str] = {}
    tried: set[str] = set()
    for path in paths:
        if len(found) == len(wanted):
            break
        if path in tried:
            continue
        tried.add(path)
        for name in _names(path, wanted, config):
            if name in wanted:
                found.setdefault(name, path)
    return found


def _names(path: str, wanted: set[str], config: PluginConfig) -> Iterator[str]:
    yield lease_name(path)
    # lvs and scsi_id take their time: they are asked only of what may be meant.
    if path.startswith("/dev/") and not all(map(LEASE_NAME.fullmatch, wanted)):
        try:
            yield resource_of(path, config).name
        except ClientError:
            return


def paths_of_guests(owners: Iterable[int]) -> Iterator[str]:
    """Yield the paths of the owners' disks; where there are no owners, of all QEMU processes'."""
    pids = list(owners) or [pid for pid in all_pids() if (command_name(pid) or "").startswith("qemu")]
    for pid in pids:
        yield from disks_of(pid)


def paths_of_images(directory: str) -> Iterator[str]:
    """Yield the paths of all files below a directory.

    :raises Failure: it cannot be read.
    """
    try:
        os.scandir(directory).close()
    except OSError as error:
        raise Failure(f"{directory}: {error.strerror}") from None

    for parent, _, files in os.walk(os.path.abspath(directory)):
        for name in files:
            yield os.path.join(parent, name)
