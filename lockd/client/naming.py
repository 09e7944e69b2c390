"""The resource of a disk, as libvirt's plugin determines it.

All programs that use a disk have to compute the same resource. Otherwise they lock different files, and two
of them may write to the disk at the same time. The behaviour of the plugin, with its oddities, was measured
with libvirt 9.0.0. Tests compare this module with the real plugin.
"""

import os
import subprocess
from typing import Final

from lockd.client.errors import ClientError
from lockd.client.plugin_config import PluginConfig
from lockd.client.resource import Resource

_LVS: Final = ("/sbin/lvs", "--noheadings", "--unbuffered", "--nosuffix", "--options", "uuid")
_SCSI_ID: Final = ("/lib/udev/scsi_id", "--replace-whitespace", "--whitelisted", "--device")
_TRIED_AS_DEVICE: Final = "/dev"
"""The plugin treats every path that begins with these four characters as a device, even ``/devel/disk``. It
does not check the type of the file."""


class NamingError(ClientError):
    """The resource of a disk cannot be determined. libvirt would not start the guest either."""


def resource_of(disk: str, config: PluginConfig) -> Resource:
    """Return the resource of a disk.

    :param disk: the path of the disk, exactly as in the guest's XML. A symbolic link and its target have
        different resources.
    :param config: the settings of the plugin.
    :returns: the resource.
    :raises NamingError: a program that identifies the disk was killed by a signal.
    """
    if disk.startswith(_TRIED_AS_DEVICE):
        if config.lvm_lockspace_dir is not None and (uuid := _lvm_uuid(disk)):
            return Resource(config.lvm_lockspace_dir, uuid, autocreate=True)
        if config.scsi_lockspace_dir is not None and (number := _scsi_id(disk)):
            return Resource(config.scsi_lockspace_dir, number, autocreate=True)
    if config.file_lockspace_dir is not None:
        return Resource(config.file_lockspace_dir, lease_name(disk), autocreate=True)
    return Resource("", disk)


def lease_name(disk: str) -> str:
    """Return the name of a disk's lease file in ``file_lockspace_dir``.

    The name is the SHA-256 of the path, in hexadecimal.

    :param disk: the path of the disk, exactly as in the guest's XML.
    :returns: the name.
    """
    # Imported only when it is needed: without it, a command that lists direct locks starts in half the time.
    from cryptography.hazmat.primitives.hashes import SHA256, Hash

    digest = Hash(SHA256())
    digest.update(os.fsencode(disk))
    return digest.finalize().hex()


def _lvm_uuid(disk: str) -> str:
    """Return the UUID of an LVM volume; empty if ``disk`` is not one."""
    status, output = _run(*_LVS, disk)
    # If lvs fails, the plugin uses its output unchanged, with all its blanks and lines.
    return output.lstrip().partition("\n")[0] if status == 0 else output


def _scsi_id(disk: str) -> str:
    """Return the identifier of a SCSI disk; empty if ``disk`` is not one."""
    status, output = _run(*_SCSI_ID, disk)
    return output.partition("\n")[0] if status == 0 else output


def _run(*command: str) -> tuple[int, str]:
    """Run a program. Return its exit status and its output; 127 and "" if it cannot be run."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except OSError:
        return 127, ""  # the status that a shell returns for this
    if done.returncode < 0:
        raise NamingError(f"{command[-1]}: {command[0]} was killed by signal {-done.returncode}")
    return done.returncode, os.fsdecode(done.stdout)
