"""qemu-lockd.conf: the settings of libvirt's plugin. They decide which lock a disk has."""

from pathlib import Path
from typing import NamedTuple

from lockd.client.errors import ConfigError
from lockd.libvirt import conf
from lockd.libvirt.addresses import own_addresses

FILE_NAME = "qemu-lockd.conf"


class PluginConfig(NamedTuple):
    """The settings of qemu-lockd.conf. The defaults are those of the plugin.

    :ivar auto_disk_leases: whether the plugin locks the disks of a guest. If not, it locks only the leases
        that are in the guest's XML.
    :ivar require_lease_for_disks: whether a guest with writable disks and without a lease is refused.
    :ivar file_lockspace_dir: the directory of the lease files for all other disks; None if the disks
        themselves are locked.
    :ivar lvm_lockspace_dir: the directory of the lease files for LVM volumes; None if they are treated like
        other disks.
    :ivar scsi_lockspace_dir: the directory of the lease files for SCSI disks; None if they are treated like
        other disks.
    """

    auto_disk_leases: bool = True
    require_lease_for_disks: bool = False
    file_lockspace_dir: str | None = None
    lvm_lockspace_dir: str | None = None
    scsi_lockspace_dir: str | None = None

    @property
    def lockspaces(self) -> list[str]:
        """The directories that are set. Each is listed once."""
        directories = (self.file_lockspace_dir, self.lvm_lockspace_dir, self.scsi_lockspace_dir)
        return list(dict.fromkeys(directory for directory in directories if directory))


def read_plugin_config(path: Path | None = None) -> PluginConfig:
    """Read a qemu-lockd.conf.

    :param path: the file; None for the file of this process's user.
    :returns: the settings; the defaults if the file does not exist.
    :raises ConfigError: the file cannot be read or is not valid.
    """
    try:
        values = conf.read(path or own_addresses().config_directory / FILE_NAME)
        if values is None:
            return PluginConfig()
        auto_disk_leases = values.boolean("auto_disk_leases", default=True)
        return PluginConfig(
            auto_disk_leases=auto_disk_leases,
            require_lease_for_disks=values.boolean("require_lease_for_disks", default=not auto_disk_leases),
            file_lockspace_dir=values.text("file_lockspace_dir"),
            lvm_lockspace_dir=values.text("lvm_lockspace_dir"),
            scsi_lockspace_dir=values.text("scsi_lockspace_dir"),
        )
    except conf.ConfError as error:
        raise ConfigError(str(error)) from None
