"""What the kernel has, and virsh says, of a guest's disk."""

import os
from pathlib import Path

from tests.kernel_locks import KernelLock, locks_on
from tests.libvirt.host import Host


def held_exclusively(host: Host, image: Path) -> None:
    """The kernel has one write lock for the image, the daemon's."""
    assert locks_on(host.lease(image)) == [KernelLock("WRITE", host.lock_daemon_pid)]
    if host.lockspace:
        assert host.lease(image).stat().st_size == 0
        assert locks_on(image) == []


def held_by_nobody(host: Host, image: Path) -> bool:
    """The kernel has no lock for the image, and no lease file is left."""
    return locks_on(host.lease(image)) == [] and (host.lockspace is None or not host.lease(image).exists())


def refused(host: Host, image: Path) -> str:
    """What virsh says of an image that this process holds; lockd also says who that is."""
    words = f"resource busy: Lockspace resource '{host.resource(image)}' is locked"
    if host.running_lock_daemon == "lockd":
        name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        words += f" by process {name} (pid {os.getpid()})"
    return words
