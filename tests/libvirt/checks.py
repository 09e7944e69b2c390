"""Checks for a guest's disk: its locks in the kernel, and the error message of virsh."""

import os
from pathlib import Path

from tests.kernel_locks import KernelLock, locks_on
from tests.libvirt.host import Host


def held_exclusively(host: Host, image: Path) -> None:
    """Assert that the only lock for the image is a write lock of the daemon."""
    assert locks_on(host.lease(image)) == [KernelLock("WRITE", host.lock_daemon_pid)]
    if host.lockspace:
        assert host.lease(image).stat().st_size == 0
        assert locks_on(image) == []


def held_by_nobody(host: Host, image: Path) -> bool:
    """Return whether there is neither a lock nor a lease file for the image."""
    return locks_on(host.lease(image)) == [] and (host.lockspace is None or not host.lease(image).exists())


def refused(host: Host, image: Path) -> str:
    """Return the error of virsh for an image that this process has locked; lockd's names the process."""
    words = f"resource busy: Lockspace resource '{host.resource(image)}' is locked"
    if host.running_lock_daemon == "lockd":
        name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        words += f" by process {name} (pid {os.getpid()})"
    return words
