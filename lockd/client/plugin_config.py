"""qemu-lockd.conf: the settings of libvirt's plugin, by which it finds the lock of a disk."""

from pathlib import Path
from typing import NamedTuple

from lockd.client.errors import ConfigError
from lockd.libvirt import conf
from lockd.libvirt.addresses import own_addresses

FILE_NAME = "qemu-lockd.conf"


class PluginConfig(NamedTuple):
    """What qemu-lockd.conf can set; the defaults are the plugin's.

    :ivar auto_disk_leases: whether disks are locked at all, or only the leases that a guest's XML names.
    :ivar require_lease_for_disks: whether a guest with writable disks and without a lease may not start.
    """

    auto_disk_leases: bool = True
    require_lease_for_disks: bool = False
    file_lockspace_dir: str | None = None
    lvm_lockspace_dir: str | None = None
    scsi_lockspace_dir: str | None = None

    @property
    def lockspaces(self) -> list[str]:
        """The directories that are set, each once."""
        directories = (self.file_lockspace_dir, self.lvm_lockspace_dir, self.scsi_lockspace_dir)
        return list(dict.fromkeys(directory for directory in directories if directory))


def read_plugin_config(path: Path | None = None) -> PluginConfig:
    """Return the settings of a qemu-lockd.conf.

    :param path: the file; None for the own user's.
    :returns: the settings; the defaults where the file is missing.
    :raises ConfigError: the file cannot be read, or something is wrong in it.
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
