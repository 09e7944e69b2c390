"""An ordinary user's libvirt starts its own lock daemon, which ends when it has been idle."""

import os
import pwd
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.libvirt.checks import held_by_nobody, held_exclusively
from tests.libvirt.conftest import new_host
from tests.libvirt.guest import Disk, Guest
from tests.libvirt.host import Host
from tests.waiting import wait_for_end, wait_until

pytestmark = pytest.mark.system

USER = "nobody"

# libvirt starts the daemon with a timeout of 120 seconds, too long for a test. A second --timeout overrides
# it.
IDLE_SECONDS = 4
"""Long enough for libvirt on a busy machine: it connects anew for each call, and a lock daemon that ends between two of
them forgets its lockspaces."""

SPAWNER = f"""\
#!/bin/sh
echo "$@" >> "$HOME/spawned"
exec /usr/sbin/virtlockd "$@" --timeout={IDLE_SECONDS}
"""


@pytest.fixture(params=[False, True], ids=["disk images", "lease files"])
def host(request: pytest.FixtureRequest, daemon: str) -> Iterator[Host]:
    """A host with an ordinary user's libvirtd, which has to start the lock daemon by itself."""
    with new_host(user=USER, lease_files=request.param) as host:
        host.install(daemon)
        # libvirt takes VIRTLOCKD_PATH as the directory of a program named virtlockd.
        spawner = host.directory / "spawner" / "virtlockd"
        spawner.parent.mkdir()
        spawner.write_text(SPAWNER)
        spawner.chmod(0o755)
        host.environment["VIRTLOCKD_PATH"] = str(spawner.parent)
        host.start_libvirtd()
        yield host


@contextmanager
def lock_daemon_watched(host: Host) -> Iterator[int]:
    """Yield a pidfd of the running lock daemon."""
    pidfd = os.pidfd_open(host.lock_daemon_pid)
    yield pidfd
    os.close(pidfd)


def test_libvirt_spawns_a_lock_daemon_of_the_user(host: Host, daemon: str) -> None:
    image = host.make_image("disk")
    guest = Guest(host, "guest", Disk(image))
    guest.create()
    spawned = (host.directory / "home" / "spawned").read_text().splitlines()
    assert set(spawned) == {"--timeout=120"}
    assert Path(f"/proc/{host.lock_daemon_pid}").stat().st_uid == pwd.getpwnam(USER).pw_uid
    assert host.running_lock_daemon == daemon
    held_exclusively(host, image)
    guest.suspend()
    assert held_by_nobody(host, image)
    guest.resume()
    held_exclusively(host, image)
    guest.destroy()
    wait_until(lambda: held_by_nobody(host, image), "the release of the destroyed guest's lock")


def test_the_spawned_lock_daemon_ends_when_idle_and_comes_back(host: Host) -> None:
    image = host.make_image("disk")
    guest = Guest(host, "guest", Disk(image))
    guest.create()
    with lock_daemon_watched(host) as pidfd:
        ended, _, _ = select.select([pidfd], [], [], IDLE_SECONDS + 1)
        assert not ended, "the lock daemon ended under a running guest"
        held_exclusively(host, image)
        guest.destroy()
        wait_for_end(pidfd, "the end of the idle lock daemon")
    assert held_by_nobody(host, image)
    assert not list(host.sockets.glob("virtlockd*"))
    if host.lockspace:
        # libvirtd creates its lockspaces only when it starts: a new lock daemon does not know them.
        host.stop_libvirtd()
        host.start_libvirtd()
    guest.create()
    held_exclusively(host, image)
