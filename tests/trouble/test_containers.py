"""Guests in containers: the pid that such a guest registers is another process's on the host, or nobody's."""

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lockd.client.errors import Refused
from lockd.client.status import StatusConnection
from tests.container import IN_CONTAINER, Container
from tests.forbid import forbidding
from tests.kernel_locks import locks_on
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.raw_client import RawClient
from tests.trouble.guest import Guest
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def owners_of(daemon: PrivateDaemon, disk: Path) -> list[dict[str, Any]]:
    with StatusConnection.connect(daemon.admin_socket) as status:
        lock = status.find("", str(disk))
    return [] if lock is None else lock["owners"]


def is_handled(daemon: PrivateDaemon) -> None:
    """Return when the daemon has handled whatever has happened before."""
    RawClient(daemon).close()
    owners_of(daemon, Path("/"))


def test_a_guest_s_lock_does_not_end_with_a_stranger_of_the_same_number(
    daemon: PrivateDaemon, container: Container, stranger: subprocess.Popen[bytes], disk: Path
) -> None:
    guest = container.start(daemon.socket, stranger.pid)
    assert guest.register().acquire(disk) is None
    (owner,) = owners_of(daemon, disk)
    assert (owner["pid"], owner["number"]) == (guest.pid, stranger.pid)
    end(stranger)
    is_handled(daemon)
    assert locks_on(disk)
    with StatusConnection.connect(daemon.admin_socket) as status:
        words = rf'held by domain "vm1" \(pid {guest.pid}\), which is alive on this host'
        with pytest.raises(Refused, match=words):
            status.release("", str(disk))
    guest.kill()
    wait_until(lambda: locks_on(disk) == [], "the dead guest's lock ends")


def test_a_guest_in_a_container_that_drops_its_connection_is_fenced(
    daemon: PrivateDaemon, container: Container, stranger: subprocess.Popen[bytes], disk: Path
) -> None:
    guest = container.start(daemon.socket, stranger.pid)
    assert guest.register().acquire(disk) is None
    guest.connection.close()
    wait_until(lambda: locks_on(disk) == [], "the guest's lock ends")
    assert guest.is_dead
    assert stranger.poll() is None


@pytest.mark.parametrize("registered", [True, False], ids=["guest registered", "guest unknown"])
def test_libvirtd_in_a_container_acquires_for_a_guest_there(
    daemon: PrivateDaemon,
    container: Container,
    stranger: subprocess.Popen[bytes],
    disk: Path,
    registered: bool,
) -> None:
    """libvirtd makes a connection for each acquire and release, with the pid of the guest in the container."""
    libvirtd, releasing = container.start(daemon.socket), container.start(daemon.socket)
    guest = container.start(daemon.socket, stranger.pid)
    if registered:
        guest.register()
    assert libvirtd.register(guest.number).acquire(disk) is None
    libvirtd.connection.close()
    end(stranger)
    is_handled(daemon)
    assert not guest.is_dead
    assert [owner["pid"] for owner in owners_of(daemon, disk)] == [guest.pid]
    client = releasing.register(guest.number)
    assert client.release(disk) is None
    assert locks_on(disk) == []
    assert client.acquire(disk) is None
    guest.kill()
    wait_until(lambda: locks_on(disk) == [], "the dead guest's lock ends")


UNPRIVILEGED = ("setpriv", "--inh-caps", "-all", "--bounding-set", "-all,+dac_override,+fowner,+kill", "--")
"""Start a daemon with the capabilities that its unit gives it."""


def test_containers_are_told_apart_without_privileges(
    tmp_path: Path, container: Container, stranger: subprocess.Popen[bytes]
) -> None:
    """Without CAP_SYS_PTRACE no pid can be translated, but a guest registers itself, and is known then."""
    with private_daemon(tmp_path / "daemon", wrapper=UNPRIVILEGED) as daemon:
        for number, registers_first in ((stranger.pid, True), (888, False)):
            disk = tmp_path / str(number)
            disk.touch()
            guest, libvirtd = container.start(daemon.socket, number), container.start(daemon.socket)
            if registers_first:
                guest.register()
            assert libvirtd.register(number).acquire(disk) is None
            libvirtd.connection.close()
            if not registers_first:
                assert [owner["pid"] for owner in owners_of(daemon, disk)] == [None]
                guest.register()
            assert [owner["pid"] for owner in owners_of(daemon, disk)] == [guest.pid]
            guest.kill()
            wait_until(lambda disk=disk: locks_on(disk) == [], "the dead guest's lock ends")  # type: ignore[misc]


def test_a_shortage_does_not_make_a_guest_in_a_container_one_that_cannot_be_watched(
    tmp_path: Path, container: Container
) -> None:
    """Only some errors say that its pid cannot be translated. Its guest would keep its locks after its death."""
    wrapper = forbidding(ns_get_tgid_from_pidns=errno.ENOMEM)
    with private_daemon(tmp_path / "daemon", wrapper=wrapper) as daemon:
        guest, libvirtd = container.start(daemon.socket), container.start(daemon.socket)
        client = RawClient(libvirtd.connection, None)
        refusal = f"Unable to watch over owner {guest.number}: Cannot allocate memory"
        assert (client.register(guest.number) or "").startswith(refusal)
        guest.register()


def test_the_same_number_in_two_containers_means_two_owners(
    daemon: PrivateDaemon, container: Container, disk: Path
) -> None:
    with Container() as other:
        guest, neighbour = container.start(daemon.socket, 777), other.start(daemon.socket, 777)
        assert guest.register(name="vm1").acquire(disk) is None
        client = neighbour.register(name="vm2")
        assert client.release(disk) == "internal error: owner 777 does not hold the resource lock"
        busy = f"resource busy: Lockspace resource '{disk}' is locked by domain \"vm1\" (pid {guest.pid})"
        assert client.acquire(disk) == busy
        neighbour.kill()
        wait_until(lambda: neighbour.is_dead, "the neighbour is dead")
        neighbour.connection.close()
        is_handled(daemon)
        assert locks_on(disk)
        assert not guest.is_dead


def test_a_number_that_no_process_of_a_container_has_is_not_one_of_the_host(
    daemon: PrivateDaemon, container: Container, stranger: subprocess.Popen[bytes], disk: Path
) -> None:
    libvirtd = container.start(daemon.socket)
    client = libvirtd.register(stranger.pid)
    assert client.acquire(disk) is None
    (owner,) = owners_of(daemon, disk)
    assert (owner["pid"], owner["number"]) == (None, stranger.pid)
    end(stranger)
    is_handled(daemon)
    assert locks_on(disk)
    with RawClient(daemon, stranger.pid) as of_the_host:
        refusal = f"internal error: owner {stranger.pid} does not hold the resource lock"
        assert of_the_host.release(disk) == refusal
    assert client.release(disk) is None


def test_an_owner_that_the_daemon_cannot_see_keeps_its_lock_until_an_administrator_releases_it(
    tmp_path: Path, disk: Path
) -> None:
    """The daemon itself is in a container, and its clients are not."""
    with private_daemon(tmp_path / "daemon", wrapper=IN_CONTAINER) as daemon:
        with Guest(daemon.socket) as guest:
            guest.acquire(disk)
            assert [owner["pid"] for owner in owners_of(daemon, disk)] == [None]
            with StatusConnection.connect(daemon.admin_socket) as status:
                words = f"(pid {guest.pid} of another pid namespace), which may be alive"
                with pytest.raises(Refused) as refused:
                    status.release("", str(disk))
                assert words in str(refused.value)
                guest.kill()
                guest.reap()
                guest.drop_connection()
                is_handled(daemon)
                assert owners_of(daemon, disk)
                assert status.release("", str(disk)) == [guest.pid]
        assert owners_of(daemon, disk) == []


def test_a_client_that_has_ended_registers_nobody_else(
    daemon: PrivateDaemon, container: Container, disk: Path
) -> None:
    """Nobody can know any more in which pid namespace it was."""
    libvirtd = container.start(daemon.socket)
    libvirtd.kill()
    wait_until(lambda: libvirtd.is_dead, "it is dead")
    client = RawClient(libvirtd.connection, None)
    assert "has ended: it can register no other one" in (client.register(os.getpid()) or "")
