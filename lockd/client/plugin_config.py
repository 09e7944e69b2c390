"""qemu-lockd.conf: the settings of libvirt's plugin, by which it finds the lock of a disk."""

from pathlib import Path
from typing import NamedTuple

from lockd.client.settings import path_of, read_settings

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
    """Return the settings of a file, by default the own user's; the defaults where it is missing.

    :raises ConfigError: it cannot be read, or something is wrong in it.
    """
    settings = read_settings(path or path_of(FILE_NAME))
    if settings is None:
        return PluginConfig()
    auto_disk_leases = settings.boolean("auto_disk_leases", default=True)
    return PluginConfig(
        auto_disk_leases=auto_disk_leases,
        require_lease_for_disks=settings.boolean("require_lease_for_disks", default=not auto_disk_leases),
        file_lockspace_dir=settings.text("file_lockspace_dir"),
        lvm_lockspace_dir=settings.text("lvm_lockspace_dir"),
        scsi_lockspace_dir=settings.text("scsi_lockspace_dir"),
    )
