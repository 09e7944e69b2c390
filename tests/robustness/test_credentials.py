"""Credentials that a client sends along are not believed: the kernel says who has connected (SO_PEERCRED)."""

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lockd.client.status import StatusConnection
from lockd.wire import lock
from lockd.wire.lock import Procedure
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import private_daemon
from tests.raw_client import RawClient

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may send the credentials of another process")
def test_nobody_is_killed_by_a_client_that_pretends_to_be_it(tmp_path: Path) -> None:
    """If the end of a guest's own connection leaves its locks behind, the guest is killed."""
    disk = tmp_path / "disk"
    disk.touch()
    with (
        private_daemon(tmp_path / "daemon") as daemon,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as guest,
    ):
        spoofed = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, _CREDENTIALS.pack(guest.pid, 0, 0))]
        with RawClient(daemon, guest.pid) as client:
            call = client.frame(Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(disk)))
            client.socket.sendmsg([call], spoofed)
            assert client.reply() is None
        with RawClient(daemon, guest.pid) as client:
            # The first connection has ended before this call is served. Its lock is the guest's, which lives.
            assert "is locked by domain" in (client.acquire(disk) or "")
        with StatusConnection.connect(daemon.admin_socket) as status:
            (held,) = status.locks()
        assert [(owner["pid"], owner["fencing_since"]) for owner in held["owners"]] == [(guest.pid, None)]
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
        guest.kill()
