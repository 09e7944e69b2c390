"""A DISK on the command line: a path, as the guest's XML has it."""

import argparse
import os
from typing import NamedTuple

from lockd.client.naming import resource_of
from lockd.client.plugin_config import PluginConfig
from lockd.client.resource import Resource
from lockd.ctl.holdings import Holding
from lockd.linux.file_identity import Identity, identity_of


class Disk(NamedTuple):
    """A disk that the user asks for.

    :ivar path: in full. Links in it are left: libvirt takes the path of the XML as it is.
    :ivar resource: what libvirt locks for it.
    :ivar identity: what the daemon knows a file by: device and inode, or a block device's number and -1; None
        where there is no such file.
    """

    path: str
    resource: Resource
    identity: Identity | None

    @property
    def resources(self) -> list[Resource]:
        """The resources that it may be locked by: the one that libvirt asks for, and the file itself."""
        direct = Resource("", self.path)
        return [self.resource] if self.resource == direct else [self.resource, direct]

    def is_held_by(self, holding: Holding) -> bool:
        """Whether a holding is one of this disk: by its name, or by the file that is locked."""
        return (
            self.path in {holding.disk, holding.path}
            or any((holding.lockspace, holding.name) == resource[:2] for resource in self.resources)
            or any(holding.path == resource.path for resource in self.resources)
            or (self.identity is not None and self.identity == (holding.device, holding.inode))
        )


def add_disk_options(parser: argparse.ArgumentParser) -> None:
    """Add what a command that tells of one disk takes."""
    parser.add_argument("disk", metavar="DISK", help="path of a disk, as in the guest's XML")
    parser.add_argument("-J", "--json", action="store_true", help="print JSON")


def find_disk(argument: str, config: PluginConfig) -> Disk:
    """Return the disk that an argument names.

    :raises NamingError: a program that had to tell its resource was killed.
    """
    path = os.path.abspath(argument)
    return Disk(path, resource_of(path, config), _identity(path))


def _identity(path: str) -> Identity | None:
    try:
        return identity_of(os.stat(path))
    except OSError:
        return None
