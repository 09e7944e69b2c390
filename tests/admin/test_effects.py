"""Calls of the admin program take effect, in lockd and in the real virtlockd."""

import os
import select
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from lockd.client.connection import LockConnection
from lockd.client.resource import Resource
from lockd.wire.admin import ParameterType, Procedure, ShutdownFlags
from tests.admin.conftest import Side, restrict
from tests.admin.raw_admin import RawAdmin, arguments, client, number64, parameters
from tests.kernel_locks import locks_on
from tests.private_daemon import LOCKD, private_daemon
from tests.waiting import wait_until


def _set_max_clients(admin: RawAdmin, server: str, number: int) -> None:
    limits = parameters(
        ("nclients_max", ParameterType.UINT, number), ("nclients_unauth_max", ParameterType.UINT, number)
    )
    admin.result(Procedure.SET_CLIENT_LIMITS, arguments(server, limits, 0))


def _is_served(connection: socket.socket, seconds: float) -> bool:
    readable, _, _ = select.select([connection], [], [], seconds)
    return bool(readable)


def test_a_disconnected_client_is_disconnected(side: Side, admin: RawAdmin) -> None:
    admin.result(Procedure.CLIENT_CLOSE, arguments(client("virtlockd", 2), 0))
    assert side.clients[0].recv(1) == b""
    restrict(side.clients[1])


def test_an_administrator_who_disconnects_itself_gets_no_reply(side: Side, admin: RawAdmin) -> None:
    assert admin.call(Procedure.CLIENT_CLOSE, arguments(client("admin", 2), 0)) is None


def test_a_connection_that_is_closed_ends_after_its_reply(side: Side, admin: RawAdmin) -> None:
    admin.result(Procedure.CONNECT_CLOSE)
    assert admin.has_ended()


def test_further_clients_wait_until_there_may_be_more(side: Side, admin: RawAdmin) -> None:
    _set_max_clients(admin, "virtlockd", 3)
    with side.daemon.connect() as third, side.daemon.connect() as fourth:
        restrict(third)
        # No frame has this length: a daemon that reads it closes the connection.
        fourth.sendall(b"\0\0\0\x04")
        assert not _is_served(fourth, 0.2)
        _set_max_clients(admin, "virtlockd", 4)
        assert _is_served(fourth, 15)


def test_an_idle_daemon_ends_after_the_timeout_that_was_set(side: Side, admin: RawAdmin) -> None:
    admin.result(Procedure.SET_DAEMON_TIMEOUT, arguments(1, 0))
    admin.result(Procedure.CONNECT_CLOSE)
    for connection in side.clients:
        connection.close()
    assert side.daemon.process.wait(15) == 0


def test_a_timeout_can_be_taken_back(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon") as daemon, RawAdmin(daemon.admin_socket) as admin:
        admin.result(Procedure.SET_DAEMON_TIMEOUT, arguments(1, 0))
        admin.result(Procedure.SET_DAEMON_TIMEOUT, arguments(0, 0))
        admin.result(Procedure.CONNECT_CLOSE)
        # No event says that the daemon goes on. Wait longer than the timeout, which is one second.
        pidfd = os.pidfd_open(daemon.pid)
        assert not select.select([pidfd], [], [], 4)[0]
        os.close(pidfd)


# Calls that only a libvirt newer than the installed one can make


def test_an_administrator_ends_the_daemon(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon") as daemon, RawAdmin(daemon.admin_socket) as admin:
        admin.result(Procedure.DAEMON_SHUTDOWN, arguments(0))
        assert admin.has_ended()
        assert daemon.process.wait(15) == 0
        assert not daemon.socket.exists()


def test_a_shutdown_with_unknown_flags_is_refused(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon") as daemon, RawAdmin(daemon.admin_socket) as admin:
        error = admin.error(Procedure.DAEMON_SHUTDOWN, arguments(6))
        assert error.message == "unsupported flags (0x6) in function adminConnectDaemonShutdown"


def test_a_preserving_shutdown_is_refused_while_locks_are_held(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    with private_daemon(tmp_path / "daemon") as daemon, RawAdmin(daemon.admin_socket) as admin:
        with LockConnection.connect(daemon.socket) as connection:
            connection.register()
            with connection.holding(Resource("", str(disk))):
                error = admin.error(Procedure.DAEMON_SHUTDOWN, arguments(ShutdownFlags.PRESERVE))
                assert "1 locks are held" in str(error.message)
                assert [lock.pid for lock in locks_on(disk)] == [daemon.pid]
        admin.result(Procedure.DAEMON_SHUTDOWN, arguments(ShutdownFlags.PRESERVE))
        assert daemon.process.wait(15) == 0


def test_the_settings_survive_a_live_upgrade(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon", LOCKD) as daemon, RawAdmin(daemon.admin_socket) as admin:
        _set_max_clients(admin, "virtlockd", 77)
        admin.result(Procedure.SET_DAEMON_TIMEOUT, arguments(1000, 0))
        before = daemon.running_image()
        daemon.signal(signal.SIGUSR1)
        wait_until(lambda: daemon.running_image() != before, "the program is replaced")
        limits = admin.result(Procedure.GET_CLIENT_LIMITS, arguments("virtlockd", 0))
        assert b"nclients_max" + bytes((0, 0, 0, 2, 0, 0, 0, 77)) in limits
        assert admin.result(Procedure.LOOKUP_CLIENT, arguments("admin", number64(1), 0))


@pytest.mark.parametrize("server", ["admin", "virtlockd"])
def test_a_daemon_with_many_clients_lists_them_all(tmp_path: Path, server: str) -> None:
    def listed(count: int) -> bool:
        result = admin.result(Procedure.LIST_CLIENTS, arguments(server, 1, 0))
        return result[:4] == result[-4:] == count.to_bytes(4, "big")

    with (
        private_daemon(tmp_path / "daemon") as daemon,
        RawAdmin(daemon.admin_socket) as admin,
        ExitStack() as connections,
    ):
        path = daemon.admin_socket if server == "admin" else daemon.socket
        for _ in range(300):
            connections.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        wait_until(lambda: listed(301 if server == "admin" else 300), "all clients are listed")


def test_where_no_name_can_be_looked_up_the_number_is_shown(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon", wrapper=["env", "PATH=/nowhere"]) as daemon, daemon.connect():
        with RawAdmin(daemon.admin_socket) as admin:
            info = admin.result(Procedure.CLIENT_GET_INFO, arguments(client("virtlockd", 2), 0))
        assert arguments("unix_user_name", ParameterType.STRING, str(os.geteuid())) in info
        assert arguments("unix_group_name", ParameterType.STRING, str(os.getegid())) in info
