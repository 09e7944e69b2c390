"""A guest's disks are locked from its start to its end, by virtlockd and by lockd alike."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel_locks import KernelLock, locked_by_this_process, locks_on
from tests.libvirt.checks import held_by_nobody, held_exclusively, refused
from tests.libvirt.conftest import new_host
from tests.libvirt.guest import Disk, Guest
from tests.libvirt.host import Host
from tests.waiting import wait_until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module", params=[False, True], ids=["disk images", "lease files"])
def host(request: pytest.FixtureRequest, daemon: str) -> Iterator[Host]:
    """A host whose libvirtd uses the lock daemon, with locks on disk images and on lease files in turn."""
    with new_host(lease_files=request.param) as host:
        host.install(daemon)
        host.start_lock_daemon()
        host.start_libvirtd()
        yield host


@pytest.fixture
def image(host: Host, request: pytest.FixtureRequest) -> Path:
    return host.make_image(_short_name(request))


@pytest.fixture
def guest(host: Host, image: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest with one disk, not yet created. If it still runs after the test, it is destroyed."""
    guest = Guest(host, _short_name(request), Disk(image))
    yield guest
    if guest.is_listed():
        guest.destroy()


def _short_name(request: pytest.FixtureRequest) -> str:
    """Return a short name for a guest, after the test: it is part of the path of QEMU's monitor socket."""
    name: str = request.function.__name__
    return name.removeprefix("test_").removeprefix("a_")[:24]


def prepared_lease(host: Host, image: Path) -> Path:
    """Return the file that is locked for the image, for an outside process to lock; create it if missing."""
    lease = host.lease(image)
    lease.parent.mkdir(mode=0o700, exist_ok=True)
    lease.touch()
    return lease


def test_the_lock_daemon_is_the_one_installed(host: Host, daemon: str) -> None:
    assert host.running_lock_daemon == daemon


def test_a_disk_is_locked_from_create_to_destroy(host: Host, guest: Guest, image: Path) -> None:
    guest.create()
    held_exclusively(host, image)
    guest.destroy()
    wait_until(lambda: held_by_nobody(host, image), "the release of the destroyed guest's lock")


def test_a_guest_is_refused_while_an_outside_process_holds_its_disk(
    host: Host, guest: Guest, image: Path
) -> None:
    with locked_by_this_process(prepared_lease(host, image)):
        assert refused(host, image) in guest.try_to_create()
        assert not guest.is_listed()
    guest.create()
    held_exclusively(host, image)


def test_suspend_releases_and_resume_locks_again(host: Host, guest: Guest, image: Path) -> None:
    guest.create()
    before = len(host.lock_daemon_log())
    guest.suspend()
    assert held_by_nobody(host, image)
    # libvirt releases twice. virtlockd logs an error for the second release, which is none.
    assert ("is not locked" in host.lock_daemon_log()[before:]) == (host.running_lock_daemon == "virtlockd")
    guest.resume()
    held_exclusively(host, image)


def test_lockctl_takes_no_disk_of_a_paused_guest(host: Host, guest: Guest, image: Path) -> None:
    """libvirt has released its lock, and QEMU has it open for writing still."""
    lockctl = str(Path(sys.prefix, "bin", "lockctl"))
    guest.create()
    guest.suspend()
    refused = host.run(lockctl, "run", str(image), "--", "true", check=False)
    assert refused.returncode == 75
    assert (
        f'{image} is open for writing in domain "{guest.name}" (qemu-system-x86, pid {guest.pid})'
        in refused.stderr
    )
    assert host.run(lockctl, "run", "--force", str(image), "--", "echo", "taken").stdout == "taken\n"
    guest.resume()
    held_exclusively(host, image)


def test_resume_is_refused_while_an_outside_process_holds_the_disk(
    host: Host, guest: Guest, image: Path
) -> None:
    guest.create()
    guest.suspend()
    with locked_by_this_process(prepared_lease(host, image)):
        assert refused(host, image) in guest.try_to_resume()
    guest.resume()
    held_exclusively(host, image)


def test_a_plugged_disk_is_locked_until_it_is_unplugged(host: Host, guest: Guest, image: Path) -> None:
    plugged = host.make_image("plugged")
    guest.create()
    guest.attach(plugged, "sdb")
    held_exclusively(host, plugged)
    guest.detach("sdb")
    wait_until(lambda: held_by_nobody(host, plugged), "the release of the unplugged disk's lock")
    held_exclusively(host, image)


def test_a_disk_that_an_outside_process_holds_is_not_plugged_in(
    host: Host, guest: Guest, image: Path
) -> None:
    foreign = host.make_image("foreign")
    guest.create()
    with locked_by_this_process(prepared_lease(host, foreign)):
        assert refused(host, foreign) in guest.try_to_attach(foreign, "sdb")
    held_exclusively(host, image)


def test_locks_outlive_a_restart_of_libvirtd(host: Host, guest: Guest, image: Path) -> None:
    guest.create()
    host.stop_libvirtd()
    held_exclusively(host, image)
    host.start_libvirtd()
    assert guest.is_listed()
    held_exclusively(host, image)
    guest.suspend()
    assert held_by_nobody(host, image)
    guest.resume()
    held_exclusively(host, image)


def test_the_lock_of_a_killed_guest_ends(host: Host, guest: Guest, image: Path) -> None:
    guest.create()
    guest.kill()
    wait_until(lambda: held_by_nobody(host, image), "the release of the killed guest's lock")
    wait_until(lambda: not guest.is_listed(), "libvirt to miss the killed guest")
    guest.create()
    held_exclusively(host, image)


def test_guests_share_a_shareable_disk(host: Host, image: Path) -> None:
    first, second = (Guest(host, name, Disk(image, shareable=True)) for name in ("sharer-1", "sharer-2"))
    shared = [KernelLock("READ", host.lock_daemon_pid)]
    first.create()
    assert locks_on(host.lease(image)) == shared
    second.create()
    first.destroy()
    assert locks_on(host.lease(image)) == shared
    second.destroy()
    wait_until(lambda: held_by_nobody(host, image), "the release of the last sharer's lock")


def test_a_read_only_disk_is_not_locked(host: Host, guest: Guest, image: Path) -> None:
    reference = host.make_image("reference")
    reader = Guest(host, "reader", Disk(reference, readonly=True))
    reader.create()
    assert held_by_nobody(host, reference)
    reader.destroy()
