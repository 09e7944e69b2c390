"""lockd and the real virtlockd side by side, for every test of the admin program."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from lockd.daemon.server import LOCK_SERVER
from lockd.wire import lock
from lockd.wire.admin import Procedure
from lockd.wire.frames import FrameType, encode
from tests.admin.raw_admin import RawAdmin, arguments
from tests.differential.pair import missing
from tests.private_daemon import LOCKD, VIRTLOCKD, PrivateDaemon, private_daemon
from tests.waiting import wait_until


@dataclass(frozen=True)
class Side:
    """A daemon, and two connections to its lock socket.

    These are its clients 2 and 3: client 1 was the connection that checked that the daemon answers.
    """

    daemon: PrivateDaemon
    clients: list[socket.socket]


def _start(stack: ExitStack, directory: pytest.TempPathFactory, name: str) -> Side:
    program = {"lockd": LOCKD, "virtlockd": VIRTLOCKD}[name]
    daemon = stack.enter_context(private_daemon(directory.mktemp(name), program))
    clients = [stack.enter_context(daemon.connect()) for _ in range(2)]
    for client in clients:
        # virtlockd learns a client's identity with its first call.
        restrict(client)
    with RawAdmin(daemon.admin_socket) as admin:
        wait_until(lambda: _number_of_clients(admin) == len(clients), "client 1 is gone")
    return Side(daemon, clients)


def _number_of_clients(admin: RawAdmin) -> int:
    return int.from_bytes(admin.result(Procedure.LIST_CLIENTS, arguments(LOCK_SERVER, 0, 0))[-4:], "big")


def restrict(client: socket.socket) -> None:
    """Make a call that changes nothing: it is refused, because the client has not registered."""
    client.sendall(
        encode(lock.PROGRAM, lock.VERSION, lock.Procedure.RESTRICT, FrameType.CALL, 1, payload=bytes(4))
    )
    assert client.recv(4096)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    """lockd and virtlockd. Their states stay the same as long as both get the same calls."""
    if reason := missing():
        pytest.skip(reason)
    with ExitStack() as stack:
        yield _start(stack, tmp_path_factory, "lockd"), _start(stack, tmp_path_factory, "virtlockd")


@pytest.fixture(params=["lockd", "virtlockd"])
def side(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    """A new daemon, lockd and virtlockd in turn: virtlockd shows that the expectation of a test is right."""
    if request.param == "virtlockd" and (reason := missing()):
        pytest.skip(reason)
    with ExitStack() as stack:
        yield _start(stack, tmp_path_factory, request.param)


@pytest.fixture
def ends(pair: tuple[Side, Side]) -> Iterator[tuple[RawAdmin, RawAdmin]]:
    """A connection to the admin socket of lockd, and one to virtlockd's."""
    ours, theirs = pair
    with RawAdmin(ours.daemon.admin_socket) as our_end, RawAdmin(theirs.daemon.admin_socket) as their_end:
        yield our_end, their_end


@pytest.fixture
def admin(side: Side) -> Iterator[RawAdmin]:
    """A connection to the admin socket of `side`."""
    with RawAdmin(side.daemon.admin_socket) as end:
        yield end
