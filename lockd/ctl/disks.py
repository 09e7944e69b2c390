"""Finding the disk that a lease file protects.

The name of a lease file is the hash of a path, and a hash cannot be reversed. So the paths that may be meant
are hashed, and the hashes are compared with the name. These paths come from the command lines and the open
files of the guests' QEMU processes, and from a directory of images if the user names one.
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
from lockd.ctl.processes import disks_of, is_qemu
from lockd.linux.processes import all_pids

LEASE_NAME: Final = re.compile("[0-9a-f]{64}")
"""The name of a lease file: the SHA-256 of the disk's path."""
LVM_UUID: Final = re.compile("[0-9A-Za-z]{6}(?:-[0-9A-Za-z]{4}){5}-[0-9A-Za-z]{6}")


def disks_of_holdings(holdings: Iterable[Holding], images: str | None) -> dict[str, str]:
    """Return the disks that lease files protect.

    :param holdings: holdings on lease files.
    :param images: a directory of images that are compared, too; None for none.
    :returns: the path of the disk by the path of the lease file. Lease files whose disk is not found are left
        out.
    :raises Failure: the directory of images cannot be read.
    :raises ConfigError: qemu-lockd.conf cannot be read.
    """
    leases = [holding for holding in holdings if holding.kernel != UNLISTED]
    names = {os.path.basename(lease.path) for lease in leases}
    pids = {lease.pid for lease in leases if lease.pid is not None}
    paths = chain(paths_of_guests(pids), paths_of_images(images) if images is not None else ())
    found = disks_of_leases(names, paths, read_plugin_config())
    by_path = {lease.path: found.get(os.path.basename(lease.path)) for lease in leases}
    return {path: disk for path, disk in by_path.items() if disk is not None}


def disks_of_leases(names: Iterable[str], paths: Iterable[str], config: PluginConfig) -> dict[str, str]:
    """Compare the names of lease files with the paths of disks.

    :param names: the names of the lease files.
    :param paths: the paths of disks. No more are read once all names are found.
    :param config: the settings of qemu-lockd.conf.
    :returns: the path of the disk by the name of the lease file. Names that are not found are left out.
    """
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
    # Running lvs or scsi_id takes long: it is done for devices only, and only if a wanted name is no hash.
    if path.startswith("/dev/") and not all(map(LEASE_NAME.fullmatch, wanted)):
        try:
            yield resource_of(path, config).name
        except ClientError:
            return


def paths_of_guests(pids: Iterable[int]) -> Iterator[str]:
    """Find the paths of disks that guests use.

    :param pids: the processes to look at. If there are none, all QEMU processes of this host are looked at.
    :yields: each path.
    """
    guests = list(pids) or [pid for pid in all_pids() if is_qemu(pid)]
    for pid in guests:
        yield from disks_of(pid)


def paths_of_images(directory: str) -> Iterator[str]:
    """Find all files below a directory.

    :param directory: the directory.
    :yields: the absolute path of each file.
    :raises Failure: the directory cannot be read.
    """
    try:
        os.scandir(directory).close()
    except OSError as error:
        raise Failure(f"{directory}: {error.strerror}") from None

    for parent, _, files in os.walk(os.path.abspath(directory)):
        for name in files:
            yield os.path.join(parent, name)
