"""A guest without an operating system: a QEMU that has its disks open, which is enough for locks."""

import signal
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from tests.libvirt.host import Host
from tests.waiting import end_process


@dataclass(frozen=True)
class Disk:
    """A raw disk image as one guest uses it."""

    image: Path
    shareable: bool = False
    readonly: bool = False

    def xml(self, device: str) -> str:
        # On other buses than SCSI, the guest's operating system has to agree before a disk is unplugged.
        flags = ("<shareable/>" if self.shareable else "") + ("<readonly/>" if self.readonly else "")
        return f"""
          <disk type='file' device='disk'>
            <driver name='qemu' type='raw'/><source file='{escape(str(self.image))}'/>
            <target dev='{device}' bus='scsi'/>{flags}
          </disk>"""


class Guest:
    """A transient guest of a host. `create` starts it."""

    def __init__(self, host: Host, name: str, *disks: Disk) -> None:
        self.host = host
        self.name = name
        self.disks = disks

    def try_to_create(self) -> str:
        """Ask libvirt to start the guest; return virsh's error message, empty if there is none."""
        disks = "".join(disk.xml(f"sd{letter}") for letter, disk in zip("abcdef", self.disks, strict=False))
        definition = self.host.images / f"{self.name}.xml"
        definition.write_text(f"""
        <domain type='qemu'>
          <name>{self.name}</name><memory unit='MiB'>32</memory>
          <os><type arch='x86_64' machine='pc'>hvm</type></os>
          <devices>
            <controller type='scsi' model='virtio-scsi'/><memballoon model='none'/>{disks}
          </devices>
        </domain>""")
        definition.chmod(0o644)
        return self._complaint("create", str(definition))

    def try_to_resume(self) -> str:
        """Ask libvirt to resume the guest; return virsh's error message, empty if there is none."""
        return self._complaint("resume", self.name)

    def try_to_attach(self, image: Path, device: str) -> str:
        """Ask libvirt to attach a further disk; return virsh's error message, empty if there is none."""
        raw = ["--driver", "qemu", "--subdriver", "raw", "--targetbus", "scsi"]
        return self._complaint("attach-disk", self.name, str(image), device, *raw)

    def create(self) -> None:
        complaint = self.try_to_create()
        assert not complaint, complaint

    def resume(self) -> None:
        complaint = self.try_to_resume()
        assert not complaint, complaint

    def attach(self, image: Path, device: str) -> None:
        complaint = self.try_to_attach(image, device)
        assert not complaint, complaint

    def detach(self, device: str) -> None:
        self.host.virsh("detach-disk", self.name, device)

    def suspend(self) -> None:
        self.host.virsh("suspend", self.name)

    def destroy(self) -> None:
        self.host.virsh("destroy", self.name)

    def kill(self) -> None:
        """Kill the guest's QEMU; libvirt is not told."""
        end_process(self.pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        return self.host.guest_pid(self.name)

    def is_listed(self) -> bool:
        """Return whether libvirt lists the guest."""
        return self.name in self.host.virsh("list", "--name").stdout.split()

    def _complaint(self, *command: str) -> str:
        done = self.host.virsh(*command, check=False)
        assert done.returncode == 0 or done.stderr, f"{command} failed without an error message"
        return done.stderr if done.returncode else ""
