"""The lock table against a model, and both against the kernel, after every step of any sequence of calls.

The files have aliases of every kind (hard links, symbolic links to files and directories, bind mounts, a second
node of a block device), other processes lock and replace them, and half of the calls are refused for some
reason. Whatever happens: the kernel's locks of this process are those that the table says are held.
"""

import errno
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lockd.engines.files import file_lock
from lockd.engines.files.engine import FilesEngine
from lockd.engines.files.inodes import Inodes
from lockd.engines.files.lockspaces import path_of
from lockd.linux.file_identity import Identity, identity_of, is_block_device
from lockd.locks.engine import Hold, Later
from lockd.locks.errors import (
    Busy,
    InvalidName,
    LockError,
    NotHeld,
    NotOwner,
    SystemCallFailed,
    UnknownLockspace,
)
from lockd.locks.errors import Outsider as Outside
from lockd.locks.resource import DIRECT, Resource, State
from lockd.locks.table import LockTable
from tests.kernel_locks import locks_of
from tests.lock_fixtures import slow_mounts
from tests.outsider import Outsider
from tests.private_mounts import bind, can_mount, private_mounts, unmount

# Paths in the example's directory. All paths of a line are aliases of the first, until somebody replaces one.
FILES = [
    "images/a", "images/hard-a", "images/soft-a", "bound/a", "soft-images/a",
    "images/b", "leases/hard-b",
    "images/missing", "images/soft-missing", "bound/missing",
    "images/directory", "images/loop", "nowhere/file",
]  # fmt: skip
DEVICES = ["devices/one", "devices/two"]
NAMES = ["x", "y", "hard-b", "soft-x", "loop", "", ".", "..", "../images/a", "nul\0"]
LOCKSPACES = ["leases", "soft-leases", "bound-leases"]
OWNERS = [101, 102, 103]

Key: TypeAlias = tuple[str, str]
KernelFile: TypeAlias = tuple[int, int]


@dataclass
class Held:
    """What the model knows of a held resource."""

    path: str
    shared: bool
    autocreate: bool
    identity: Identity
    file: KernelFile
    owners: Counter[int] = field(default_factory=Counter)


@dataclass
class World:
    """What all examples share."""

    directory: Path
    outsiders: list[Outsider]
    device: Path | None
    mounts: bool
    numbers: Iterator[int] = field(default_factory=count)


class TableMachine(RuleBasedStateMachine):
    """Calls on the table, as the daemon makes them, and what others do to the files meanwhile."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.directory = self.world.directory / str(next(self.world.numbers))
        self.inodes = Inodes()
        # Everything is local to this engine, whatever the example's directory is on.
        self.engine = FilesEngine(self.inodes, slow_mounts({}))
        self.table = LockTable(self.engine)
        self.held: dict[Key, Held] = {}
        self.outside: dict[int, dict[Identity, str]] = {0: {}, 1: {}}
        for name in ("images/directory", "leases", "bound", "bound-leases", "devices"):
            (self.directory / name).mkdir(parents=True)
        for name in ("images/a", "images/b", "leases/x"):
            (self.directory / name).touch()
        os.link(self.directory / "images/a", self.directory / "images/hard-a")
        os.link(self.directory / "images/b", self.directory / "leases/hard-b")
        for name, target in {
            "images/soft-a": "a",
            "images/soft-missing": "missing",
            "images/loop": "loop",
            "leases/soft-x": "x",
            "leases/loop": "loop",
            "soft-images": "images",
            "soft-leases": "leases",
        }.items():
            (self.directory / name).symlink_to(target)
        self.mounted = []
        if self.world.mounts:
            for source, target in (("images", "bound"), ("leases", "bound-leases")):
                bind(self.directory / source, self.directory / target)
                self.mounted.append(self.directory / target)
        if self.world.device is not None:
            for name in DEVICES:
                os.mknod(self.directory / name, stat.S_IFBLK | 0o600, os.stat(self.world.device).st_rdev)
        for name in LOCKSPACES:
            self.table.add_lockspace(str(self.directory / name))

    # Calls on the table

    keys = st.one_of(
        st.tuples(st.just(DIRECT), st.sampled_from(FILES)),
        st.tuples(st.just(DIRECT), st.sampled_from(DEVICES)),
        st.tuples(st.sampled_from(LOCKSPACES), st.sampled_from(NAMES)),
        st.tuples(st.just("unknown"), st.sampled_from(NAMES)),
    )
    owners = st.sampled_from(OWNERS)

    def key(self, place: Key) -> Key:
        lockspace, name = place
        if lockspace == DIRECT:
            return DIRECT, f"{self.directory}/{name}"
        return str(self.directory / lockspace), name

    @rule(place=keys, owner=owners, shared=st.booleans(), autocreate=st.booleans(), in_thread=st.booleans())
    def acquire(self, place: Key, owner: int, shared: bool, autocreate: bool, in_thread: bool) -> None:
        key = self.key(place)
        expected = self.refusal(key, shared, autocreate)
        try:
            self.take(key, owner, shared, autocreate, in_thread)
        except LockError as error:
            assert_refused(error, expected)
            return
        assert expected is None, expected
        if key not in self.held:
            path = path_of(*key)
            status = os.stat(path)
            file = (status.st_dev, status.st_ino)
            self.held[key] = Held(path, shared, autocreate, identity(status), file)
        self.held[key].owners[owner] += 1

    def take(self, key: Key, owner: int, shared: bool, autocreate: bool, in_thread: bool) -> None:
        """Take a lock as the daemon does: in a worker thread, or on the spot if no link has to be followed."""
        resource = self.table.reserve(*key, owner, 0.0, shared=shared, autocreate=autocreate)
        if resource is None:
            return
        taken: Hold | Later[Hold]
        try:
            if in_thread:
                resource.queue = "/"
                taken = file_lock.take_pinned(self.inodes, resource, device_named(resource.path))
            else:
                taken = self.engine.take(resource)
                while isinstance(taken, Later):
                    assert os.path.islink(resource.path) or device_named(resource.path) is not None
                    taken = taken.work()
        except LockError:
            self.table.forget(resource)
            raise
        self.table.grant(resource, taken)

    def refusal(self, key: Key, shared: bool, autocreate: bool) -> LockError | None:
        """Return the error that an acquire is refused with, or None."""
        lockspace, name = key
        held = self.held.get(key)
        if lockspace == str(self.directory / "unknown"):
            return UnknownLockspace(lockspace)
        if held is not None:
            return None if shared and held.shared else Busy(name, held.path)
        if lockspace != DIRECT and name in {"", ".", "..", "../images/a", "nul\0"}:
            return InvalidName(name)
        path = path_of(*key)
        try:
            status = os.stat(path)
        except FileNotFoundError as error:
            can_be_made = os.path.isdir(os.path.dirname(path)) and not os.path.islink(path)
            return None if autocreate and can_be_made else SystemCallFailed(path, error)
        except OSError as error:
            return SystemCallFailed(path, error)
        if stat.S_ISDIR(status.st_mode):
            return SystemCallFailed(path, IsADirectoryError(errno.EISDIR, ""))
        file = identity(status)
        for other in self.held.values():
            if other.identity == file:
                return Busy(name, other.path)
        conflicting = {
            self.world.outsiders[number].pid
            for number, locks in self.outside.items()
            if file in locks and not (shared and locks[file] == "READ")
        }
        if conflicting:
            return Busy(name, (conflicting, path))
        return None

    @rule(place=keys, owner=owners)
    def release_anything(self, place: Key, owner: int) -> None:
        self.release(self.key(place), owner)

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 20))
    def release_what_is_held(self, number: int) -> None:
        holdings = [(key, owner) for key, held in self.held.items() for owner in held.owners]
        self.release(*holdings[number % len(holdings)])

    def release(self, key: Key, owner: int) -> None:
        held = self.held.get(key)
        try:
            resource = self.table.end_holding(*key, owner)
        except UnknownLockspace:
            assert key[0] == str(self.directory / "unknown")
        except NotHeld:
            assert held is None
        except NotOwner:
            assert held is not None
            assert owner not in held.owners
        else:
            assert held is not None
            held.owners[owner] -= 1
            held.owners += Counter()
            assert (resource is None) == bool(held.owners)
            if resource is not None:
                self.drop(resource)

    @rule(owner=owners)
    def owner_dies(self, owner: int) -> None:
        for held in self.held.values():
            del held.owners[owner]
        for resource in self.table.end_holdings(owner):
            assert not self.held[resource.lockspace, resource.name].owners
            self.drop(resource)

    def drop(self, resource: Resource) -> None:
        """Drop a lock. The file that was made for it is removed, if it is still there and nobody shares it."""
        held = self.held.pop((resource.lockspace, resource.name))
        before = named(held.path)
        shared = any(held.identity in locks for locks in self.outside.values())
        later = self.engine.drop(resource)
        assert (later is None) == (resource.queue is None)
        if later is not None:
            later.work()
        self.table.forget(resource)
        removed = held.autocreate and not shared and before == held.identity
        assert named(held.path) == (None if removed else before)

    @rule(place=keys)
    def create(self, place: Key) -> None:
        key = self.key(place)
        existed = key[0] != str(self.directory / "unknown") and "\0" not in key[1] and self.exists(key)
        try:
            later = self.engine.create(self.table.check_free(*key))
            if later is not None:
                assert os.path.islink(path_of(*key))
                later.work()
        except Busy:
            assert key in self.held
        except (InvalidName, UnknownLockspace):
            assert not existed
        except SystemCallFailed:
            assert not existed or os.path.isdir(path_of(*key))
        else:
            assert os.path.exists(path_of(*key))

    def exists(self, key: Key) -> bool:
        try:
            return os.path.exists(path_of(*key))
        except InvalidName:
            return False

    @rule(place=keys)
    def delete(self, place: Key) -> None:
        key = self.key(place)
        try:
            path = self.table.check_free(*key)
            file = identity(os.lstat(path)) if os.path.lexists(path) else None
            assert self.engine.delete(path, key[1]) is None
        except Busy:
            assert key in self.held or file in self.held_files()
        except (InvalidName, UnknownLockspace):
            pass
        except SystemCallFailed:
            assert os.path.isdir(path)
        else:
            assert not os.path.lexists(path)
            assert file not in self.held_files()

    def held_files(self) -> set[Identity]:
        return {held.identity for held in self.held.values()}

    # What others do

    outside_files = st.sampled_from([name for name in FILES if name.startswith("images/")] + ["leases/x"])
    numbers = st.sampled_from([0, 1])

    @rule(number=numbers, name=outside_files, mode=st.sampled_from(["READ", "WRITE"]))
    def outsider_locks(self, number: int, name: str, mode: str) -> None:
        self.lock_outside(number, self.directory / name, mode)

    def lock_outside(self, number: int, path: Path, mode: str) -> None:
        if not path.is_file() or identity(path.stat()) in self.outside[number]:
            return
        file = identity(path.stat())
        others = [locks[file] for locks in self.outside.values() if file in locks]
        others += ["READ" if held.shared else "WRITE" for held in self.held.values() if held.identity == file]
        granted = self.world.outsiders[number].lock(path, mode)
        assert granted == all((mode, other) == ("READ", "READ") for other in others)
        if granted:
            self.outside[number][file] = mode

    @rule(number=numbers)
    def outsider_unlocks_all(self, number: int) -> None:
        self.world.outsiders[number].unlock_all()
        self.outside[number].clear()

    @rule(name=outside_files)
    def outsider_replaces(self, name: str) -> None:
        """Somebody puts another file in the place of this one, held or not."""
        path = self.directory / name
        if not path.is_dir():
            path.unlink(missing_ok=True)
            path.touch()

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 20), again=st.booleans())
    def outsider_replaces_what_is_held(self, number: int, again: bool) -> None:
        """Somebody removes a held file, and may put another one in its place."""
        path = Path(sorted(held.path for held in self.held.values())[number % len(self.held)])
        if not path.is_block_device():
            path.unlink(missing_ok=True)
            if again:
                path.touch()

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 20), outsider=numbers)
    def outsider_shares_what_is_held(self, number: int, outsider: int) -> None:
        paths = sorted(held.path for held in self.held.values())
        self.lock_outside(outsider, Path(paths[number % len(paths)]), "READ")

    @rule(name=outside_files)
    def outsider_removes(self, name: str) -> None:
        path = self.directory / name
        if not path.is_dir():
            path.unlink(missing_ok=True)

    @rule(name=outside_files, alias=outside_files)
    def outsider_links(self, name: str, alias: str) -> None:
        """Somebody gives a file a further name."""
        target = self.directory / alias
        if (self.directory / name).is_file() and not os.path.lexists(target):
            os.link(os.path.realpath(self.directory / name), target)

    # What is true at any time

    @invariant()
    def the_kernel_holds_what_the_table_says(self) -> None:
        expected = {held.file: "READ" if held.shared else "WRITE" for held in self.held.values()}
        assert locks_of(os.getpid()) == expected
        for number, locks in self.outside.items():
            assert locks_of(self.world.outsiders[number].pid) == locks

    @invariant()
    def the_table_holds_what_was_granted(self) -> None:
        in_table = {(resource.lockspace, resource.name): resource for resource in self.table}
        assert in_table.keys() == self.held.keys()
        assert len(self.table) == len(self.held)
        for key, held in self.held.items():
            resource = in_table[key]
            assert resource.state is State.HELD
            assert (resource.shared, resource.autocreate) == (held.shared, held.autocreate)
            assert resource.owners == held.owners
            assert self.table.find(*key) is resource
        for owner in OWNERS:
            keys = {key for key, held in self.held.items() if owner in held.owners}
            assert {(resource.lockspace, resource.name) for resource in self.table.holdings(owner)} == keys

    @invariant()
    def one_descriptor_is_open_on_each_held_file(self) -> None:
        """One more may wait to be closed: parking keeps it to one (``Inodes.open``)."""
        expected = Counter(held.identity for held in self.held.values())
        found = self.open_files()
        assert found.keys() == expected.keys()
        assert (found - expected).total() <= 1

    def open_files(self) -> Counter[Identity]:
        """Return the number of descriptors that this process has open on each file of the example."""
        return Counter(identity(os.fstat(fd)) for fd in self.descriptors())

    def descriptors(self) -> list[int]:
        """Return the descriptors of this process that are open on files of the example."""
        with os.scandir("/proc/self/fd") as entries:
            links = {int(entry.name): os.readlink(entry) for entry in entries}
        return [fd for fd, path in links.items() if path.startswith(f"{self.directory}/")]

    def teardown(self) -> None:
        try:
            for number in self.outside:
                self.outsider_unlocks_all(number)
            for owner in OWNERS:
                self.owner_dies(owner)
            assert not len(self.table)
            assert locks_of(os.getpid()) == {}
            assert not self.open_files()
        finally:
            # Otherwise the next example would fail too.
            for fd in self.descriptors():
                os.close(fd)
            for target in self.mounted:
                unmount(target)
            shutil.rmtree(self.directory)


def named(path: str) -> Identity | None:
    """Return what identifies the file at a path, or None if there is none."""
    return identity(os.stat(path)) if os.path.exists(path) else None


def identity(status: os.stat_result) -> Identity:
    """Return what is the same for all names of one lockable file: the inode, or the device of a device node."""
    if stat.S_ISBLK(status.st_mode):
        return status.st_rdev, -1
    return status.st_dev, status.st_ino


def device_named(path: str) -> Identity | None:
    """Return the identity of a block device; None for a path that leads to none."""
    try:
        found = identity_of(os.stat(path))
    except (OSError, ValueError):
        return None
    return found if is_block_device(found) else None


def assert_refused(error: LockError, expected: LockError | None) -> None:
    assert type(error) is type(expected), (error, expected)
    match error, expected:
        case Busy(holder=Outside(pid, path)), Busy(holder=(pids, expected_path)):
            assert (pid in pids, path) == (True, expected_path)
        case Busy(), Busy():
            assert error.holder.path == expected.holder
        case SystemCallFailed(), SystemCallFailed():
            assert error.errno == expected.errno


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """As many kinds of aliases as this machine allows."""
    mounts = can_mount()
    with ExitStack() as stack:
        if mounts:
            stack.enter_context(private_mounts())
        device = request.getfixturevalue("device") if mounts and shutil.which("losetup") else None
        # They see what is mounted from now on, as they are in the same namespace.
        outsiders = [stack.enter_context(Outsider()) for _ in range(2)]
        yield World(tmp_path, outsiders, device, mounts)


def test_no_sequence_of_calls_parts_the_table_from_the_kernel(world: World) -> None:
    machine = type("Machine", (TableMachine,), {"world": world})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
