"""A guest goes on running while its host changes from virtlockd to lockd and back."""

import os
import signal
from pathlib import Path

import pytest

from tests.kernel_locks import KernelLock, locked_by_this_process, locks_on
from tests.libvirt.checks import held_by_nobody, held_exclusively, refused
from tests.libvirt.conftest import new_host
from tests.libvirt.guest import Disk, Guest
from tests.libvirt.host import Host
from tests.waiting import wait_until

pytestmark = pytest.mark.system

CHAIN = ["lockd", "lockd", "virtlockd", "lockd", "virtlockd"]


def upgrade_to(host: Host, name: str) -> None:
    """Replace the running lock daemon with the given one, by a live upgrade."""
    host.install(name)
    pid = host.lock_daemon_pid
    auxv = Path(f"/proc/{pid}/auxv")  # it changes with each exec
    before = auxv.read_bytes()
    os.kill(pid, signal.SIGUSR1)
    wait_until(lambda: auxv.read_bytes() not in {before, b""}, "the lock daemon has replaced itself")
    wait_until(lambda: host.running_lock_daemon == name, f"{name} runs")
    assert host.lock_daemon_pid == pid


@pytest.mark.parametrize("lease_files", [False, True], ids=["disk images", "lease files"])
def test_a_guest_runs_through_all_changes_of_the_lock_daemon(lease_files: bool) -> None:
    with new_host(lease_files=lease_files) as host:
        host.install("virtlockd")
        host.start_lock_daemon()
        host.start_libvirtd()
        image, plugged, shared = (host.make_image(name) for name in ("image", "plugged", "shared"))
        guest = Guest(host, "guest", Disk(image), Disk(shared, shareable=True))
        other = Guest(host, "other", Disk(shared, shareable=True))
        guest.create()
        other.create()
        guest_pid = guest.pid
        for name in CHAIN:
            upgrade_to(host, name)
            held_exclusively(host, image)
            assert locks_on(host.lease(shared)) == [KernelLock("READ", host.lock_daemon_pid)]
            guest.suspend()
            assert held_by_nobody(host, image)
            with locked_by_this_process(prepared(host, image)):
                assert refused(host, image) in guest.try_to_resume()
            guest.resume()
            held_exclusively(host, image)
            guest.attach(plugged, "sdc")
            held_exclusively(host, plugged)
            guest.detach("sdc")
            wait_until(lambda: held_by_nobody(host, plugged), "the release of the unplugged disk's lock")
            assert guest.pid == guest_pid
        other.kill()
        wait_until(lambda: not other.is_listed(), "libvirt to miss the killed guest")
        assert locks_on(host.lease(shared)) == [KernelLock("READ", host.lock_daemon_pid)]
        guest.destroy()
        wait_until(lambda: held_by_nobody(host, image), "the release of the destroyed guest's lock")
        wait_until(lambda: held_by_nobody(host, shared), "the release of the last sharer's lock")


def prepared(host: Host, image: Path) -> Path:
    """Return the file that is locked for the image; create it if missing."""
    lease = host.lease(image)
    lease.touch()
    return lease
