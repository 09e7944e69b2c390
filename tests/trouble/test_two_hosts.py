"""Two hosts that share a file server, and remember names and attributes as NFS clients do: a lease has one holder.

One host acts while the other one is between two of its requests, for each of them in turn.
"""

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from threading import Condition, Thread

import pytest

from lockd.ctl import clean
from lockd.engines.files import file_lock
from lockd.engines.files.inodes import Inodes
from lockd.linux.record_locks import unlock
from lockd.locks.engine import Engine
from lockd.locks.errors import Busy
from lockd.locks.resource import Resource
from lockd.wire.lock import AcquireFlags
from tests.private_daemon import LOCKD, VIRTLOCKD
from tests.trouble.conftest import Stage
from tests.trouble.guest import Guest, Refused
from tests.trouble.hanging_filesystem import TOO_LONG, HangingFilesystem, ServerLock
from tests.waiting import wait_until

KINDS = pytest.mark.parametrize("kind", ["NFSv3", "NFSv4", "FUSE"])
GRANTS = 100

LEASE = Path("lease")


class Host:
    """A host with a lock daemon and a guest.

    :ivar filesystem: the server's files as this host sees them.
    """

    def __init__(self, filesystem: HangingFilesystem, guest: Guest) -> None:
        self.filesystem = filesystem
        self.guest = guest
        self.leases = filesystem.path / "leases"
        guest.create_lockspace(self.leases)

    def send_acquire(self) -> None:
        self.guest.send_acquire(LEASE, str(self.leases), AcquireFlags.AUTOCREATE)

    def is_granted(self) -> bool:
        """Return whether the acquire that was sent is granted."""
        try:
            self.guest.reply()
        except Refused:
            return False
        return True

    def acquire(self) -> bool:
        self.send_acquire()
        return self.is_granted()

    def release(self) -> None:
        self.guest.release(LEASE, str(self.leases))


class Hosts:
    """Two mounts of the same files. Each is a host; several daemons can be started on either, for one test or another."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.filesystems = stage.mount_on_hosts("first", "second")
        self._started: dict[tuple[int, Path, str], Host] = {}

    def get(self, number: int, program: Path = LOCKD, trusts: str = "") -> Host:
        """Return one of the two hosts, with a daemon of its own, which is started if it does not run.

        With `trusts`, the daemon has the fault of `trusting_daemon`.
        """
        if not program.exists():
            pytest.skip(f"{program} is not installed")
        key = number, program, trusts
        if key not in self._started:
            name = f"{program.parent.name}-{number}-{trusts}"
            wrapper = [sys.executable, "-m", "tests.trouble.trusting_daemon", trusts] if trusts else []
            guest = self._stage.start_guest(self._stage.start_daemon(name, program, wrapper))
            self._started[key] = Host(self.filesystems[number], guest)
        return self._started[key]


@pytest.fixture(scope="module")
def all_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    stage = Stage(tmp_path_factory.mktemp("hosts"))
    try:
        yield Hosts(stage)
    finally:
        stage.clear()


@pytest.fixture
def hosts(all_hosts: Hosts) -> Iterator[Hosts]:
    yield all_hosts
    for filesystem in all_hosts.filesystems:
        filesystem.release_all()


def begin(holder: Host, other: Host, kind: str) -> None:
    """Have one host hold the lease, and the other one remember its file."""
    remember([holder, other], kind)
    assert holder.acquire()
    assert not other.acquire()


def remember(hosts: list[Host], kind: str) -> None:
    for host in hosts:
        host.filesystem.remember(kind)


def end(hosts: list[Host], granted: list[bool]) -> None:
    """Release what was granted. Nothing is left, so the lock was on the file that the path names."""
    for host, is_granted in zip(hosts, granted, strict=True):
        if is_granted:
            host.release()
    server = hosts[0].filesystem
    server.release_all()
    assert server.locks() == []
    # The kernel tells a FUSE server of the last close later.
    wait_until(lambda: list(server.files()) == ["leases"], "the lease file is removed")


def waits(host: Host) -> bool:
    """Wait until a request of the host hangs, or the call of its guest is answered. Return whether it hangs."""
    wait_until(lambda: host.filesystem.hangs() or host.guest.has_reply(), "the call hangs or is answered")
    return not host.guest.has_reply()


def holders_at_each_request(hosts: list[Host], kind: str) -> list[int]:
    """Return how many hosts have the lease in the end, for each request of the second host's acquire.

    The first host releases the lease and acquires it again just before that request.
    """
    first, second = hosts
    found: list[int] = []
    for number in count():
        begin(first, second, kind)
        second.filesystem.hang_after(number)
        second.send_acquire()
        if not waits(second):
            assert not second.is_granted()
            end(hosts, [True, False])
            return found
        first.release()
        granted = [first.acquire()]
        second.filesystem.release_all()
        granted.append(second.is_granted())
        found.append(sum(granted))
        end(hosts, granted)
    raise AssertionError


def holders_after_the_lock(hosts: list[Host], kind: str) -> list[int]:
    """Return the same for each request from the second host's lock on.

    The first host has released the lease just before that lock, and acquires it again just before that request.
    """
    first, second = hosts
    found: list[int] = []
    for number in count(1):
        begin(first, second, kind)
        second.filesystem.hang("setlk")
        second.send_acquire()
        assert waits(second)
        # The lock ends before the last close, at which an NFS client removes the file.
        first.filesystem.hang("release")
        first.release()
        second.filesystem.hang_after(number)
        hangs = waits(second)
        granted = [first.acquire()]
        second.filesystem.release_all()
        granted.append(second.is_granted())
        found.append(sum(granted))
        end(hosts, granted)
        if not hangs:
            return found
    raise AssertionError


BOTH_WAYS = pytest.mark.parametrize("holders", [holders_at_each_request, holders_after_the_lock])


@KINDS
@BOTH_WAYS
@pytest.mark.parametrize("first", [LOCKD, VIRTLOCKD], ids=["lockd", "virtlockd"])
def test_a_lease_has_one_holder_whenever_the_other_host_acts(
    hosts: Hosts, holders: Callable[[list[Host], str], list[int]], kind: str, first: Path
) -> None:
    found = holders([hosts.get(0, first), hosts.get(1)], kind)
    assert set(found) == {1}
    assert len(found) > 3


@pytest.mark.parametrize(("trusts", "kind"), [("names", "FUSE"), ("attributes", "NFSv4")])
def test_where_the_host_asks_for_one_of_both_that_is_enough(hosts: Hosts, trusts: str, kind: str) -> None:
    assert set(holders_after_the_lock([hosts.get(0), hosts.get(1, trusts=trusts)], kind)) == {1}


@KINDS
def test_in_a_race_a_lease_has_one_holder(hosts: Hosts, kind: str) -> None:
    two = [hosts.get(0), hosts.get(1)]
    remember(two, kind)
    granted, worst = race(two)
    assert worst == 1
    assert min(granted) > GRANTS // 20
    end(two, [False, False])


def race(hosts: list[Host]) -> tuple[list[int], int]:
    """Have two hosts take the lease again and again, until there were enough grants.

    Whoever has it keeps it until the other one's attempt is answered.

    Return how many each got, and how many hosts had it at the same time at most.
    """
    granted, answered = [0, 0], [0, 0]
    holders: set[int] = set()
    worst = 0
    changed = Condition()

    def wait_for_the_other(number: int) -> None:
        before = answered[1 - number]
        changed.wait_for(lambda: answered[1 - number] > before or sum(granted) == GRANTS, TOO_LONG)

    def take_again_and_again(number: int) -> None:
        nonlocal worst
        while sum(granted) < GRANTS:
            is_granted = hosts[number].acquire()
            with changed:
                answered[number] += 1
                changed.notify_all()
                if not is_granted:
                    continue
                granted[number] += 1
                holders.add(number)
                worst = max(worst, len(holders))
                wait_for_the_other(number)
                holders.remove(number)
            hosts[number].release()

    threads = [Thread(target=take_again_and_again, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return granted, worst


@pytest.mark.parametrize(
    ("trusts", "kind"), [("all", "NFSv4"), ("all", "FUSE"), ("names", "NFSv4"), ("attributes", "FUSE")]
)
def test_the_referee_sees_two_holders(hosts: Hosts, trusts: str, kind: str) -> None:
    """The fault is planted: the daemon trusts what its host remembers."""
    assert 2 in holders_after_the_lock([hosts.get(0), hosts.get(1, trusts=trusts)], kind)


@pytest.mark.system
def test_virtlockd_gives_a_lease_twice_and_lockd_does_not(hosts: Hosts) -> None:
    assert 2 in holders_after_the_lock([hosts.get(0), hosts.get(1, VIRTLOCKD)], "NFSv4")
    assert set(holders_after_the_lock([hosts.get(0), hosts.get(1)], "NFSv4")) == {1}


# What else depends on a name


@KINDS
def test_a_release_leaves_what_another_host_has_locked_in_place_of_the_file(hosts: Hosts, kind: str) -> None:
    first, second = hosts.get(0), hosts.get(1)
    begin(second, first, kind)
    (first.leases / LEASE).unlink()
    assert first.acquire()
    second.release()
    assert_held(first)
    end([first], [True])


@KINDS
def test_clean_removes_no_lease_that_another_host_has_locked_meanwhile(hosts: Hosts, kind: str) -> None:
    first, filesystem = hosts.get(0), hosts.filesystems[1]
    path = filesystem.path / "leases" / LEASE
    for number in count():
        for one in hosts.filesystems:
            one.remember(kind)
        assert first.acquire()
        path.stat()
        filesystem.hang_after(number)
        cleaner = Cleaner(path)
        hangs = cleaner.hangs_in(filesystem)
        first.release()
        assert first.acquire()
        filesystem.release_all()
        cleaner.join()
        assert cleaner.outcome in {clean.Outcome.HELD, clean.Outcome.GONE}
        assert_held(first)
        end([first], [True])
        if not hangs:
            break
    assert number > 3


class Cleaner(Thread):
    """Cleans one lease file as `lockctl clean` does. This process has no locks that could end by it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = str(path)
        self.outcome: clean.Outcome | None = None
        self.start()

    def hangs_in(self, filesystem: HangingFilesystem) -> bool:
        """Wait until a request hangs, or the file is cleaned. Return whether it hangs."""
        wait_until(lambda: filesystem.hangs() or not self.is_alive(), "cleaning hangs or ends")
        return self.is_alive()

    def run(self) -> None:
        try:
            self.outcome = clean.remove(self._path)
        except FileNotFoundError:
            self.outcome = clean.Outcome.GONE


@KINDS
@pytest.mark.parametrize("taken", [False, True], ids=["free", "taken"])
def test_a_lost_lock_is_taken_back_on_the_file_that_the_path_names(
    hosts: Hosts, kind: str, taken: bool
) -> None:
    """This process is the second host's daemon. While its lock is lost, the first host takes the lease."""
    first, server = hosts.get(0), hosts.filesystems[1]
    path = str(server.path / "leases" / LEASE)
    server.remember(kind)
    resource = Resource("", path, path, Engine(), 0.0, False, True)
    resource.queue = str(server.path)
    inodes = Inodes()
    claim = file_lock.take_pinned(inodes, resource)
    unlock(claim.fd)
    assert first.acquire()
    first.release()
    if taken:
        assert first.acquire()
        assert file_lock.path_doubt(claim, path, in_thread=True) is not None
        with pytest.raises(Busy):
            file_lock.take_back(inodes, resource, claim)
        file_lock.drop(inodes, resource, claim)
        assert_held(first)
    else:
        claim = file_lock.take_back(inodes, resource, claim)
        assert server.locks() == [ServerLock("leases/lease", os.getpid(), exclusive=True)]
        assert not first.acquire()
        file_lock.drop(inodes, resource, claim)
    end([first], [taken])


@pytest.mark.parametrize("kind", ["NFSv3", "NFSv4"])
def test_a_disk_that_another_host_has_replaced_is_locked_itself(hosts: Hosts, kind: str) -> None:
    """The old file still has a name, so that a lock on it would be granted, and protect nothing."""
    there, here = (filesystem.path for filesystem in hosts.filesystems)
    hosts.filesystems[1].remember(kind)
    (there / "disk").touch()
    (here / "disk").stat()
    (there / "old").hardlink_to(there / "disk")
    (there / "disk").unlink()
    (there / "disk").touch()
    guest = hosts.get(1).guest
    guest.acquire(here / "disk")
    assert [held.path for held in hosts.filesystems[0].locks()] == ["disk"]
    guest.release(here / "disk")
    for name in ("disk", "old"):
        (there / name).unlink()


@KINDS
def test_a_file_that_another_host_has_removed_is_created(hosts: Hosts, kind: str) -> None:
    here = hosts.get(1)
    here.filesystem.remember(kind)
    there = hosts.filesystems[0].path / "leases" / LEASE
    for _ in range(2):
        here.guest.send_create(LEASE, str(here.leases))
        here.guest.reply()
        there.unlink()


def assert_held(host: Host) -> None:
    """Assert that there is one lock, and that it is on the lease file."""
    assert [held.path for held in host.filesystem.locks()] == ["leases/lease"]
