"""Owners: what stays open when something fails."""

import os
import socket
import subprocess
from uuid import UUID

import pytest
import trio

from lockd.daemon.counters import Counters
from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.owners import Owners
from lockd.daemon.reactor import Reactor
from lockd.daemon.server import LOCK_SERVER, Limits, Server
from lockd.daemon.session import Session
from lockd.daemon.tasks import Tasks
from lockd.wire.lock import Owner


def _no_memory(_key: int) -> None:
    raise MemoryError


async def test_no_pidfd_is_left_open_when_the_locks_of_an_ended_owner_cannot_be_released() -> None:
    """Its pid is another process's now, which registers."""
    ended = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(ended.pid)
    ended.wait()
    details = Owner(UUID(int=1), "vm1", 1, os.getpid())
    ours, theirs = socket.socketpair()
    async with trio.open_nursery() as nursery:
        with theirs:
            reactor = Reactor(lambda: None)
            owners = Owners(reactor, Tasks(nursery), Counters(), _no_memory, lambda _key: True)
            server = Server(
                LOCK_SERVER,
                reactor,
                Limits(1, 1),
                setting="max_clients",
                payload_kept=0,
                on_end=owners.session_ended,
            )
            session = Session(server, reactor, ours, 1)
            owners.adopt(OwnerProcess(os.getpid(), details, os.getpid(), pidfd))
            before = os.listdir("/proc/self/fd")
            with pytest.raises(MemoryError):
                owners.register(session, details)
            opened = os.listdir("/proc/self/fd")
    session.hang_up()
    os.close(pidfd)
    assert opened == before
