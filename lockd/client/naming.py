"""Which resource a disk is, exactly as libvirt's plugin says.

All that use a disk have to come to the same name, or they lock different files and destroy the disk together.
What the plugin does was measured on libvirt 9.0.0, its oddities too; tests hold this against the real one.
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
"""The plugin does not ask what a path is: it looks at these four characters, with whatever may follow them."""


class NamingError(ClientError):
    """A disk's name cannot be found out: libvirt would not start the guest either."""


def resource_of(disk: str, config: PluginConfig) -> Resource:
    """Return the resource of a disk.

    :param disk: its path as the guest's XML has it: a symbolic link is not the same disk as its target.
    :raises NamingError: a program that had to tell was killed.
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
    """Return the name of a disk's lease file in ``file_lockspace_dir``: SHA-256 of its path, in hexadecimal."""
    # Imported late: the list of direct locks does not need it, and starts in half the time without.
    from cryptography.hazmat.primitives.hashes import SHA256, Hash

    digest = Hash(SHA256())
    digest.update(os.fsencode(disk))
    return digest.finalize().hex()


def _lvm_uuid(disk: str) -> str:
    """Return the UUID of an LVM volume; empty where ``disk`` is none."""
    status, output = _run(*_LVS, disk)
    # What it prints and fails is taken as it is, blanks and all.
    return output.lstrip().partition("\n")[0] if status == 0 else output


def _scsi_id(disk: str) -> str:
    """Return the identifier of a SCSI disk; empty where ``disk`` is none."""
    status, output = _run(*_SCSI_ID, disk)
    return output.partition("\n")[0] if status == 0 else output


def _run(*command: str) -> tuple[int, str]:
    """Return a program's exit status and output; one that cannot be run has none."""
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
        return 127, ""  # as a shell says of it
    if done.returncode < 0:
        raise NamingError(f"{command[-1]}: {command[0]} was killed by signal {-done.returncode}")
    return done.returncode, os.fsdecode(done.stdout)
