"""A lock daemon with a timeout ends when it has been idle that long since its last client left."""

import os
import select
import socket
import time
from contextlib import suppress

import pytest

from tests.libvirt.conftest import new_host
from tests.libvirt.host import Host
from tests.waiting import wait_for_end

pytestmark = pytest.mark.system

IDLE_SECONDS = 2


def visit(host: Host) -> None:
    """Connect to the lock daemon and disconnect at once."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(host.sockets / "virtlockd-sock"))


def lives_on_with_visits(host: Host, pidfd: int) -> bool:
    """Visit the lock daemon for twice as long as it may be idle; return False if this machine was too busy for that."""
    for _ in range(10):
        came_at = time.monotonic()
        visit(host)
        if select.select([pidfd], [], [], IDLE_SECONDS / 5)[0]:
            assert time.monotonic() - came_at > IDLE_SECONDS, "the lock daemon ended although clients came"
            return False
    return True


def test_short_visits_keep_the_lock_daemon_alive(daemon: str) -> None:
    with new_host() as host:
        host.install(daemon)
        for _ in range(5):
            pidfd = os.pidfd_open(host.start_lock_daemon(f"--timeout={IDLE_SECONDS}"))
            with suppress(OSError):  # an idle lock daemon has closed its sockets
                if lives_on_with_visits(host, pidfd):
                    break
            os.close(pidfd)
        visit(host)
        left_at = time.monotonic()
        wait_for_end(pidfd, "the end of the idle lock daemon")
        assert time.monotonic() - left_at > IDLE_SECONDS * 0.9
        os.close(pidfd)
