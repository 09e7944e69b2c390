"""Locks that are left after an owner's death, and owners with very many holdings.

``tests/trouble`` tests that an owner dies before its locks end.
"""

import time
from pathlib import Path

from lockd.client.status import StatusConnection
from lockd.locks.table import HOLDINGS_MAX
from lockd.wire.lock import Procedure, encode_resource
from tests.differences.conftest import Scene
from tests.kernel_locks import locks_on
from tests.peer_process import PeerProcess
from tests.raw_client import NOBODY, SHARED, RawClient
from tests.waiting import wait_until


def _two_holdings_of_a_dead_guest(scene: Scene, disk: Path) -> None:
    guest = PeerProcess([scene.daemon.socket])
    client = RawClient(guest.connections[0], guest.pid)
    assert client.acquire(disk, flags=SHARED) is None
    assert client.acquire(disk, flags=SHARED) is None
    assert locks_on(disk)
    guest.end()


def test_virtlockd_keeps_one_of_two_holdings_of_a_dead_guest(virtlockd: Scene) -> None:
    disk = virtlockd.disk()
    _two_holdings_of_a_dead_guest(virtlockd, disk)
    refusal = f"internal error: owner {NOBODY} does not hold the resource lock"
    assert virtlockd.client.release(disk) == refusal
    assert virtlockd.client.release(disk) == refusal
    assert locks_on(disk)


def test_all_holdings_of_a_dead_guest_end(lockd: Scene) -> None:
    disk = lockd.disk()
    _two_holdings_of_a_dead_guest(lockd, disk)
    wait_until(lambda: locks_on(disk) == [], "the guest's locks end")


def _registered_by_another_process_and_dies(scene: Scene, disk: Path) -> None:
    guest = PeerProcess([scene.daemon.socket])
    with RawClient(scene.daemon, guest.pid) as client:
        assert client.acquire(disk) is None
    guest.end()


def test_virtlockd_keeps_the_locks_of_a_dead_owner_that_another_process_registered(virtlockd: Scene) -> None:
    disk = virtlockd.disk()
    _registered_by_another_process_and_dies(virtlockd, disk)
    assert "is locked" in (virtlockd.client.acquire(disk) or "")
    assert locks_on(disk)


def test_what_was_taken_in_the_name_of_a_process_ends_with_it(lockd: Scene) -> None:
    disk = lockd.disk()
    _registered_by_another_process_and_dies(lockd, disk)
    wait_until(lambda: locks_on(disk) == [], "the dead process's locks end")
    assert lockd.client.acquire(disk) is None


def _registers_a_second_time_and_dies(scene: Scene, disk: Path) -> None:
    guest = PeerProcess([scene.daemon.socket])
    client = RawClient(guest.connections[0], guest.pid)
    assert client.acquire(disk) is None
    assert client.register(NOBODY) is None
    guest.end()


def test_virtlockd_keeps_the_locks_of_a_dead_owner_from_before_its_second_registration(
    virtlockd: Scene,
) -> None:
    disk = virtlockd.disk()
    _registers_a_second_time_and_dies(virtlockd, disk)
    assert "is locked" in (virtlockd.client.acquire(disk) or "")
    assert locks_on(disk)


def test_what_a_process_held_ends_with_it_though_it_registered_as_another(lockd: Scene) -> None:
    disk = lockd.disk()
    _registers_a_second_time_and_dies(lockd, disk)
    wait_until(lambda: locks_on(disk) == [], "the dead process's locks end")


def _acquire_shared(client: RawClient, disk: Path, times: int) -> None:
    """Acquire a disk as often as given, all of which has to succeed. Many calls are sent at once."""
    call = client.frame(Procedure.ACQUIRE_RESOURCE, encode_resource("", str(disk), SHARED))
    for first in range(0, times, 64):
        number = min(64, times - first)
        client.socket.sendall(call * number)
        for _ in range(number):
            assert client.reply() is None


def test_virtlockd_has_no_bound_of_holdings(virtlockd: Scene) -> None:
    disk = virtlockd.disk()
    _acquire_shared(virtlockd.client, disk, HOLDINGS_MAX + 1)


def test_a_shared_resource_has_a_bound_of_holdings(lockd: Scene) -> None:
    """Further ones are refused, and releasing all of them at once holds nobody up."""
    disk = lockd.disk()
    _acquire_shared(lockd.client, disk, HOLDINGS_MAX)
    refusal = f"{disk} has {HOLDINGS_MAX} holdings, which is the most: release some first"
    assert lockd.client.acquire(disk, flags=SHARED) == f"Requested operation is not valid: {refusal}"
    with StatusConnection.connect(lockd.daemon.admin_socket) as status:
        began = time.monotonic()
        assert status.release("", str(disk)) == [NOBODY]
        assert time.monotonic() - began < 1
    wait_until(lambda: locks_on(disk) == [], "the lock ends")
