"""A lock daemon with a timeout ends when it has been idle that long since its last client left."""

import os
import select
import socket
import time

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


def test_short_visits_keep_the_lock_daemon_alive(daemon: str) -> None:
    with new_host() as host:
        host.install(daemon)
        pidfd = os.pidfd_open(host.start_lock_daemon(f"--timeout={IDLE_SECONDS}"))
        for _ in range(10):
            visit(host)
            ended, _, _ = select.select([pidfd], [], [], IDLE_SECONDS / 5)
            assert not ended, "the lock daemon ended although clients came"
        visit(host)
        left_at = time.monotonic()
        wait_for_end(pidfd, "the end of the idle lock daemon")
        assert time.monotonic() - left_at > IDLE_SECONDS * 0.9
        os.close(pidfd)
