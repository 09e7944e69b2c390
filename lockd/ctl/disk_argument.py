"""The argument DISK: the path of a disk, as in the guest's XML."""

import argparse
import os
from typing import NamedTuple

from lockd.client.naming import resource_of
from lockd.client.plugin_config import PluginConfig
from lockd.client.resource import Resource
from lockd.ctl.holdings import Holding
from lockd.linux.file_identity import Identity, identity_of


class Disk(NamedTuple):
    """A disk that the user names.

    :ivar path: the absolute path. Symbolic links are not resolved, because libvirt uses the path of the XML
        as it is.
    :ivar resource: the resource that libvirt locks for the disk.
    :ivar identity: device and inode number of the file, or the device's own number and -1 for a block device;
        None if there is no such file.
    """

    path: str
    resource: Resource
    identity: Identity | None

    @property
    def resources(self) -> list[Resource]:
        """The resources that may lock this disk: the one that libvirt locks, and the file itself."""
        direct = Resource("", self.path)
        return [self.resource] if self.resource == direct else [self.resource, direct]

    def is_held_by(self, holding: Holding) -> bool:
        """Return whether a holding is on this disk, by the name of its resource or by the locked file.

        :param holding: the holding.
        :returns: whether it is on this disk.
        """
        return (
            self.path in {holding.disk, holding.path}
            or any((holding.lockspace, holding.name) == resource[:2] for resource in self.resources)
            or any(holding.path == resource.path for resource in self.resources)
            or (self.identity is not None and self.identity == (holding.device, holding.inode))
        )


def add_disk_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a command that shows one disk: DISK and --json.

    :param parser: the parser of the command.
    """
    parser.add_argument("disk", metavar="DISK", help="path of a disk, as in the guest's XML")
    parser.add_argument("-J", "--json", action="store_true", help="print JSON")


def find_disk(argument: str, config: PluginConfig) -> Disk:
    """Return the disk that an argument names.

    :param argument: the path of the disk, absolute or relative.
    :param config: the settings of qemu-lockd.conf.
    :returns: the disk. It need not exist.
    :raises NamingError: the program that finds the UUID or serial number of the disk was killed.
    """
    path = os.path.abspath(argument)
    return Disk(path, resource_of(path, config), _identity(path))


def _identity(path: str) -> Identity | None:
    try:
        return identity_of(os.stat(path))
    except OSError:
        return None
