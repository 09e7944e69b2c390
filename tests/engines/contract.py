"""The contract of an engine (``lockd.locks.engine``), as tests that each engine has to pass.

An engine is tested by a subclass of ``Setting``, which gives the tests what they need, and by a subclass of
``EngineContract`` whose fixture ``setting`` makes one.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from lockd.locks.engine import Engine, Hold, Later
from lockd.locks.errors import Busy, InvalidName, LockError, NotADirectory, SystemCallFailed
from lockd.locks.resource import Resource
from tests.kernel_locks import locks_of

T = TypeVar("T")

BOTH_MODES = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


class Other(ABC):
    """Somebody else who can hold the same locks: another process, or a daemon on another host.

    It is never asked for a lock that it holds already.
    """

    @abstractmethod
    def take(self, path: str, *, shared: bool) -> bool:
        """Try to take the lock of a resource.

        :param path: what the engine's ``path_of`` returns for the resource. It exists.
        :param shared: whether others may hold it at the same time, if they share it too.
        :returns: whether it was granted.
        """

    @abstractmethod
    def drop_all(self) -> None:
        """Give up all locks."""

    @abstractmethod
    def is_named_by(self, holder: Any, path: str) -> bool:
        """Return whether the holder in a ``Busy`` is this one.

        :param holder: the holder.
        :param path: the path of the resource that is busy.
        """


class Setting(ABC):
    """What an engine needs to be tested.

    :ivar lockspace: the path of a lockspace that exists.
    :ivar other: somebody else who can hold its locks.
    :ivar invalid_names: names that no resource of the lockspace can have.
    :ivar invalid_lockspaces: paths that no lockspace can have.
    """

    lockspace: str
    other: Other
    invalid_names: Sequence[str]
    invalid_lockspaces: Sequence[str]

    @abstractmethod
    def new_engine(self) -> Engine:
        """Return an engine as a program has it after its start. It shares nothing with earlier engines."""

    @abstractmethod
    def state(self) -> object:
        """Return all that a method of the engine could change: all locks, and what stands for resources."""

    def name(self, word: str) -> str:
        """Return a name that a resource of the lockspace can have, a different one for each word."""
        return word

    @abstractmethod
    def unusable_name(self) -> str:
        """Return the name of a resource that cannot be taken, created or deleted."""

    @abstractmethod
    def another_name(self, path: str) -> str:
        """Give what stands for a resource another name, and return it. Skip the test if that is impossible."""

    # What stands for a resource. Each path is what the engine's path_of returns.

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return whether there is anything that stands for a resource."""

    @abstractmethod
    def make(self, path: str) -> None:
        """Make what stands for a resource, as an administrator would."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove what stands for a resource, as an administrator would."""

    # Lockspaces

    @abstractmethod
    def new_lockspace(self) -> str:
        """Return the path of a lockspace that does not exist and can be made."""

    @abstractmethod
    def occupied_path(self) -> str:
        """Return a path that belongs to something other than a lockspace. Skip the test if there is none."""

    @abstractmethod
    def impossible_lockspace(self) -> str:
        """Return the path of a lockspace that cannot be made, although its path is valid."""

    # Locks that were taken over

    @abstractmethod
    def facts_of_virtlockd(self, path: str) -> dict[str, Any]:
        """Take an exclusive lock as virtlockd leaves it, and return its facts. Skip the test if it leaves none."""

    @abstractmethod
    def lose(self, facts: dict[str, Any]) -> None:
        """End a lock without the engine's help, as an administrator or a fault may.

        :param facts: what ``describe`` returned for it.
        """


class Calls:
    """Calls the methods of an engine as the daemon does: work that may block is done in another thread.

    It also states what is true of each call: nothing is done before the work, and the queue is named.

    :ivar left: the methods whose work was left to a thread.
    """

    def __init__(self, setting: Setting, engine: Engine | None = None) -> None:
        self.setting = setting
        self.engine = engine or setting.new_engine()
        self.left: list[str] = []

    def resource(self, name: str = "disk", *, shared: bool = False, autocreate: bool = True) -> Resource:
        """Return a resource that is reserved."""
        return self.resource_named(self.setting.name(name), shared=shared, autocreate=autocreate)

    def resource_named(self, name: str, *, shared: bool = False, autocreate: bool = True) -> Resource:
        path = self.path_of(name)
        return Resource(self.setting.lockspace, name, path, self.engine, 0.0, shared, autocreate)

    def path_of(self, name: str) -> str:
        return self.engine.path_of(self.setting.lockspace, name)

    def take(self, resource: Resource) -> Resource:
        """Take a resource's lock."""
        before = self.setting.state()
        taken = self.engine.take(resource)
        assert resource.queue == (taken.queue if isinstance(taken, Later) else None)
        resource.hold = self._done("take", taken, before)
        assert isinstance(resource.hold, Hold)
        return resource

    def drop(self, resource: Resource) -> None:
        """Drop a resource's lock, and forget its hold as the lock table does."""
        before = self.setting.state()
        assert self._done("drop", self.engine.drop(resource), before) is None
        resource.hold = None

    def make_lockspace(self, path: str) -> None:
        before = self.setting.state()
        assert self._done("make_lockspace", self.engine.make_lockspace(path), before) is None

    def create(self, path: str) -> None:
        before = self.setting.state()
        assert self._done("create", self.engine.create(path), before) is None

    def delete(self, path: str, name: str) -> None:
        before = self.setting.state()
        assert self._done("delete", self.engine.delete(path, name), before) is None

    def _done(self, method: str, result: T | Later[T], before: object) -> T:
        if not isinstance(result, Later):
            return result
        assert self.setting.state() == before, "nothing is done before the work"
        assert result.queue
        self.left.append(method)
        with ThreadPoolExecutor(1) as pool:
            done: T | Later[T] = pool.submit(result.work).result()
        return self._done(method, done, before)

    # Live upgrade

    def describe(self, resource: Resource) -> dict[str, Any]:
        """Return the facts of a hold as the next program reads them from the state file."""
        facts: dict[str, Any] = json.loads(json.dumps(self.engine.describe(resource)))
        return facts

    def adopt(self, resource: Resource, facts: dict[str, Any]) -> Resource:
        """Go on with a hold of the program before.

        :param resource: the resource as that program had it.
        :param facts: the facts of its hold.
        :returns: the resource of this program.
        """
        adopted = self.resource_named(resource.name, shared=resource.shared, autocreate=resource.autocreate)
        adopted.hold = self.engine.adopt(adopted, facts)
        assert isinstance(adopted.hold, Hold)
        return adopted


class EngineContract:
    """The tests. A subclass has a fixture ``setting``."""

    @pytest.fixture
    def calls(self, setting: Setting) -> Calls:
        return Calls(setting)

    @BOTH_MODES
    def test_it_tells_whether_it_still_has_a_lock(self, calls: Calls, shared: bool) -> None:
        """For a release that has failed for no known reason."""
        resource = calls.take(calls.resource(shared=shared))
        assert calls.engine.holds(resource)
        hold = resource.hold
        calls.drop(resource)
        resource.hold = hold
        assert not calls.engine.holds(resource)

    # Names

    def test_a_resource_has_one_path(self, setting: Setting, calls: Calls) -> None:
        names = [setting.name(word) for word in ("disk", "disk.1", "Disk", "a b", "Köln", "...")]
        paths = [calls.path_of(name) for name in names]
        assert len(set(paths)) == len(names)
        assert [calls.path_of(name) for name in names] == paths
        assert [Calls(setting).path_of(name) for name in names] == paths

    def test_a_name_that_no_resource_can_have_is_refused(self, setting: Setting, calls: Calls) -> None:
        assert setting.invalid_names
        for name in setting.invalid_names:
            with pytest.raises(InvalidName):
                calls.path_of(name)

    # Taking a lock

    @pytest.mark.parametrize("theirs_shared", [False, True], ids=["theirs exclusive", "theirs shared"])
    @BOTH_MODES
    def test_a_lock_keeps_others_out_unless_both_share_it(
        self, setting: Setting, calls: Calls, shared: bool, theirs_shared: bool
    ) -> None:
        held = calls.take(calls.resource(shared=shared))
        assert setting.other.take(held.path, shared=theirs_shared) == (shared and theirs_shared)
        setting.other.drop_all()
        calls.drop(held)

    @pytest.mark.parametrize("theirs_shared", [False, True], ids=["theirs exclusive", "theirs shared"])
    @BOTH_MODES
    def test_a_lock_of_others_keeps_this_one_out_unless_both_share_it(
        self, setting: Setting, calls: Calls, shared: bool, theirs_shared: bool
    ) -> None:
        wanted = calls.resource(shared=shared)
        setting.make(wanted.path)
        assert setting.other.take(wanted.path, shared=theirs_shared)
        before = setting.state()
        if shared and theirs_shared:
            calls.take(wanted)
        else:
            with pytest.raises(Busy) as caught:
                calls.take(wanted)
            assert str(caught.value) == f"Lockspace resource '{wanted.name}' is locked"
            assert setting.other.is_named_by(caught.value.holder, wanted.path)
            assert setting.state() == before
            setting.other.drop_all()
            wanted = calls.take(calls.resource(shared=shared))
        calls.drop(wanted)
        setting.other.drop_all()

    def test_what_is_held_under_another_name_is_busy(self, setting: Setting, calls: Calls) -> None:
        setting.make(calls.resource().path)
        alias = setting.another_name(calls.resource().path)
        held = calls.take(calls.resource())
        for _ in range(3):
            with pytest.raises(Busy) as caught:
                calls.take(calls.resource_named(alias))
            assert caught.value.holder is held
            assert not setting.other.take(held.path, shared=True)
        calls.drop(held)
        calls.drop(calls.take(calls.resource_named(alias)))

    @BOTH_MODES
    def test_many_locks_are_held_at_once(self, setting: Setting, calls: Calls, shared: bool) -> None:
        held = [calls.take(calls.resource(f"disk{number}", shared=shared)) for number in range(10)]
        assert len({id(resource.hold) for resource in held}) == len(held)
        for resource in held:
            assert not setting.other.take(resource.path, shared=False)
        for number, resource in enumerate(held):
            calls.drop(resource)
            assert not any(setting.other.take(later.path, shared=False) for later in held[number + 1 :])

    @pytest.mark.parametrize("autocreate", [False, True])
    def test_what_cannot_be_taken_is_an_error_with_its_reason(
        self, setting: Setting, calls: Calls, autocreate: bool
    ) -> None:
        name = setting.unusable_name()
        before = setting.state()
        for _ in range(2):
            wanted = calls.resource_named(name, autocreate=autocreate)
            with pytest.raises(SystemCallFailed, match=r".: .") as caught:
                calls.take(wanted)
            assert caught.value.errno > 0
            assert not caught.value.creating_file
            assert os.strerror(caught.value.errno) in str(caught.value)
            assert wanted.path in str(caught.value)
            assert wanted.hold is None
            assert setting.state() == before

    # Dropping a lock

    @BOTH_MODES
    def test_a_dropped_lock_is_free_for_all(self, setting: Setting, calls: Calls, shared: bool) -> None:
        setting.make(calls.resource().path)
        before = setting.state()
        for _ in range(3):
            held = calls.take(calls.resource(shared=shared, autocreate=False))
            assert not setting.other.take(held.path, shared=False)
            calls.drop(held)
            assert setting.state() == before
            assert setting.other.take(held.path, shared=False)
            setting.other.drop_all()

    @BOTH_MODES
    def test_what_was_made_for_a_lock_goes_with_it(
        self, setting: Setting, calls: Calls, shared: bool
    ) -> None:
        before = setting.state()
        for _ in range(3):
            held = calls.take(calls.resource(shared=shared, autocreate=True))
            assert setting.exists(held.path)
            calls.drop(held)
            assert not setting.exists(held.path)
            assert setting.state() == before

    @BOTH_MODES
    def test_what_was_not_made_for_a_lock_stays(self, setting: Setting, calls: Calls, shared: bool) -> None:
        wanted = calls.resource(shared=shared, autocreate=False)
        setting.make(wanted.path)
        calls.drop(calls.take(wanted))
        assert setting.exists(wanted.path)

    def test_what_others_still_share_stays(self, setting: Setting, calls: Calls) -> None:
        held = calls.take(calls.resource(shared=True, autocreate=True))
        assert setting.other.take(held.path, shared=True)
        calls.drop(held)
        assert setting.exists(held.path)
        setting.other.drop_all()
        calls.drop(calls.take(calls.resource(shared=True, autocreate=True)))
        assert not setting.exists(held.path)

    @BOTH_MODES
    def test_a_lock_ends_also_if_what_was_made_for_it_is_gone(
        self, setting: Setting, calls: Calls, shared: bool
    ) -> None:
        before = setting.state()
        held = calls.take(calls.resource(shared=shared, autocreate=True))
        setting.remove(held.path)
        calls.drop(held)
        assert setting.state() == before
        calls.drop(calls.take(calls.resource(shared=shared, autocreate=True)))

    # Lockspaces and what is in them

    def test_a_lockspace_is_made_once_and_can_be_used(self, setting: Setting, calls: Calls) -> None:
        path = setting.new_lockspace()
        for _ in range(2):
            calls.make_lockspace(path)
        resource = Resource(path, "x", calls.engine.path_of(path, "x"), calls.engine, 0.0, False, True)
        calls.take(resource)
        calls.make_lockspace(path)
        assert not setting.other.take(resource.path, shared=True)
        calls.drop(resource)

    def test_a_path_that_no_lockspace_can_have_is_refused(self, setting: Setting, calls: Calls) -> None:
        assert setting.invalid_lockspaces
        for path in setting.invalid_lockspaces:
            with pytest.raises(InvalidName):
                calls.make_lockspace(path)

    def test_what_belongs_to_something_else_is_no_lockspace(self, setting: Setting, calls: Calls) -> None:
        path = setting.occupied_path()
        before = setting.state()
        with pytest.raises(NotADirectory, match="exists, but is not a directory"):
            calls.make_lockspace(path)
        assert setting.state() == before

    def test_a_lockspace_that_cannot_be_made_is_an_error_with_its_reason(
        self, setting: Setting, calls: Calls
    ) -> None:
        path = setting.impossible_lockspace()
        with pytest.raises(SystemCallFailed, match="Unable to create lockspace") as caught:
            calls.make_lockspace(path)
        assert path in str(caught.value)
        assert caught.value.errno > 0

    def test_a_resource_is_created_once_and_deleted_once(self, setting: Setting, calls: Calls) -> None:
        name = setting.name("disk")
        path = calls.path_of(name)
        before = setting.state()
        for _ in range(2):
            calls.create(path)
            assert setting.exists(path)
        calls.drop(calls.take(calls.resource(autocreate=False)))
        for _ in range(2):
            calls.delete(path, name)
            assert not setting.exists(path)
        assert setting.state() == before

    @BOTH_MODES
    def test_creating_what_is_held_changes_nothing(
        self, setting: Setting, calls: Calls, shared: bool
    ) -> None:
        held = calls.take(calls.resource(shared=shared))
        before = setting.state()
        calls.create(held.path)
        assert setting.state() == before
        assert not setting.other.take(held.path, shared=False)
        calls.drop(held)

    @BOTH_MODES
    def test_what_is_held_is_not_deleted(self, setting: Setting, calls: Calls, shared: bool) -> None:
        held = calls.take(calls.resource(shared=shared))
        before = setting.state()
        with pytest.raises(Busy) as caught:
            calls.delete(held.path, held.name)
        assert caught.value.holder is held
        assert setting.state() == before
        assert not setting.other.take(held.path, shared=False)
        calls.drop(held)
        calls.delete(held.path, held.name)

    def test_what_is_held_under_another_name_is_neither_created_nor_deleted(
        self, setting: Setting, calls: Calls
    ) -> None:
        setting.make(calls.resource().path)
        alias = setting.another_name(calls.resource().path)
        path = calls.path_of(alias)
        held = calls.take(calls.resource())
        before = setting.state()
        calls.create(path)
        with pytest.raises(Busy, match="is locked") as caught:
            calls.delete(path, alias)
        assert alias in str(caught.value)
        assert caught.value.holder is held
        assert setting.state() == before
        assert not setting.other.take(held.path, shared=True)
        calls.drop(held)
        calls.delete(path, alias)
        assert not setting.exists(path)

    def test_what_cannot_be_created_or_deleted_is_an_error_with_its_reason(
        self, setting: Setting, calls: Calls
    ) -> None:
        name = setting.unusable_name()
        path = calls.path_of(name)
        before = setting.state()
        with pytest.raises(SystemCallFailed) as caught:
            calls.create(path)
        assert caught.value.creating_file
        with pytest.raises(SystemCallFailed) as caught_too:
            calls.delete(path, name)
        assert not caught_too.value.creating_file
        for error in (caught.value, caught_too.value):
            assert error.errno > 0
            assert path in str(error)
        assert setting.state() == before

    @BOTH_MODES
    def test_what_the_kernel_is_said_to_list_it_lists(
        self, setting: Setting, calls: Calls, shared: bool
    ) -> None:
        before = locks_of(os.getpid())
        held = calls.take(calls.resource(shared=shared))
        listed = calls.engine.is_listed(held)
        if listed:
            new = locks_of(os.getpid()).items() - before.items()
            assert [mode for _, mode in new] == ["READ" if shared else "WRITE"]
        calls.drop(held)
        assert locks_of(os.getpid()) == before

    def test_works_of_several_resources_go_on_at_once(self, setting: Setting, calls: Calls) -> None:
        wanted = [calls.resource(f"disk{number}") for number in range(16)]
        taken = [calls.engine.take(resource) for resource in wanted]
        with ThreadPoolExecutor(len(wanted)) as pool:
            for resource, hold in zip(wanted, pool.map(finish, taken), strict=True):
                resource.hold = hold
        assert not any(setting.other.take(resource.path, shared=True) for resource in wanted)
        dropped = [calls.engine.drop(resource) for resource in wanted]
        with ThreadPoolExecutor(len(wanted)) as pool:
            assert not any(pool.map(finish, dropped))
        assert not any(setting.exists(resource.path) for resource in wanted)

    # Live upgrade

    @pytest.mark.parametrize("autocreate", [False, True], ids=["stays", "is removed"])
    @BOTH_MODES
    def test_the_next_program_goes_on_with_the_same_hold(
        self, setting: Setting, calls: Calls, shared: bool, autocreate: bool
    ) -> None:
        setting.make(calls.resource().path)
        held = calls.take(calls.resource(shared=shared, autocreate=autocreate))
        state = setting.state()
        for _ in range(3):
            facts = calls.describe(held)
            assert setting.state() == state
            calls = Calls(setting)
            before, held = held, calls.adopt(held, facts)
            assert held.queue == before.queue
            assert setting.state() == state
            assert setting.other.take(held.path, shared=True) == shared
            setting.other.drop_all()
            calls.engine.check([held])
            assert held.doubt is None
            assert finish(calls.engine.path_doubt(held)) is None
            assert setting.state() == state
        calls.drop(held)
        assert setting.exists(held.path) != autocreate
        setting.make(held.path)
        assert setting.other.take(held.path, shared=False)

    def test_the_next_program_goes_on_with_all_holds(self, setting: Setting, calls: Calls) -> None:
        held = [calls.take(calls.resource(f"disk{number}", shared=number % 2 == 1)) for number in range(10)]
        facts = [calls.describe(resource) for resource in held]
        after = Calls(setting)
        adopted = [after.adopt(resource, facts) for resource, facts in zip(held, facts, strict=True)]
        after.engine.check(adopted)
        for resource in adopted:
            assert resource.doubt is None
            assert not setting.other.take(resource.path, shared=False)
            with pytest.raises(Busy) as caught:
                after.delete(resource.path, resource.name)
            assert caught.value.holder is resource
            after.drop(resource)
            assert not setting.exists(resource.path)

    def test_a_hold_of_virtlockd_is_gone_on_with(self, setting: Setting, calls: Calls) -> None:
        disk = calls.resource(autocreate=False)
        setting.make(disk.path)
        facts = setting.facts_of_virtlockd(disk.path)
        state = setting.state()
        disk = calls.adopt(disk, facts)
        assert setting.state() == state
        calls.engine.check([disk])
        assert disk.doubt is None
        assert finish(calls.engine.path_doubt(disk)) is None
        assert not setting.other.take(disk.path, shared=True)
        calls.drop(disk)
        assert setting.other.take(disk.path, shared=False)

    def test_two_names_that_virtlockd_holds_are_one_hold(self, setting: Setting, calls: Calls) -> None:
        disk = calls.resource(autocreate=False)
        setting.make(disk.path)
        alias = calls.resource_named(setting.another_name(disk.path), autocreate=False)
        facts = [setting.facts_of_virtlockd(path) for path in (disk.path, alias.path)]
        disk = calls.adopt(disk, facts[0])
        with pytest.raises(Busy) as caught:
            calls.adopt(alias, facts[1])
        assert caught.value.holder is disk
        assert not setting.other.take(disk.path, shared=True)
        calls.engine.check([disk])
        assert disk.doubt is None
        calls.drop(disk)
        assert setting.other.take(alias.path, shared=False)

    def test_a_hold_that_is_gone_cannot_be_gone_on_with(self, setting: Setting, calls: Calls) -> None:
        held = calls.take(calls.resource())
        facts = calls.describe(held)
        calls.drop(held)
        before = setting.state()
        after = Calls(setting)
        with pytest.raises(OSError, match=r"."):
            after.adopt(held, facts)
        assert setting.state() == before
        after.drop(after.take(after.resource()))

    @BOTH_MODES
    def test_a_lost_lock_is_taken_again_or_in_doubt(
        self, setting: Setting, calls: Calls, shared: bool
    ) -> None:
        held = [calls.take(calls.resource(name, shared=shared)) for name in ("lost", "held")]
        facts = [calls.describe(resource) for resource in held]
        after = Calls(setting)
        lost, still_held = [after.adopt(resource, facts) for resource, facts in zip(held, facts, strict=True)]
        setting.lose(facts[0])
        after.engine.check([lost, still_held])
        assert still_held.doubt is None
        assert not setting.other.take(still_held.path, shared=False)
        if after.engine.is_listed(lost):
            assert lost.doubt is not None
        if lost.queue is None:
            assert not setting.other.take(lost.path, shared=False)
            assert setting.other.take(lost.path, shared=True) == shared
        setting.other.drop_all()
        for resource in (lost, still_held):
            after.drop(resource)

    @BOTH_MODES
    def test_a_lost_lock_that_somebody_else_has_is_in_doubt(
        self, setting: Setting, calls: Calls, shared: bool
    ) -> None:
        held = calls.take(calls.resource(shared=shared))
        facts = calls.describe(held)
        after = Calls(setting)
        lost = after.adopt(held, facts)
        setting.lose(facts)
        assert setting.other.take(lost.path, shared=False)
        after.engine.check([lost])
        if after.engine.is_listed(lost):
            assert lost.doubt is not None
        assert not after.engine.is_listed(lost) or "lost" in str(lost.doubt)
        after.drop(lost)
        # What is theirs now stays, and stays locked.
        with pytest.raises(LockError):
            after.take(after.resource(shared=shared, autocreate=False))

    def test_a_path_that_names_something_else_is_a_doubt(self, setting: Setting, calls: Calls) -> None:
        held = calls.take(calls.resource())
        facts = calls.describe(held)
        after = Calls(setting)
        adopted = after.adopt(held, facts)
        setting.remove(adopted.path)
        setting.make(adopted.path)
        before = setting.state()
        assert finish(after.engine.path_doubt(adopted)) == "the path names another file than the locked one"
        assert setting.state() == before
        after.drop(adopted)
        assert setting.exists(adopted.path), "what somebody has put in its place stays"

    @pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
    @BOTH_MODES
    def test_what_was_removed_or_replaced_is_taken_anew(
        self, setting: Setting, calls: Calls, shared: bool, replaced: bool
    ) -> None:
        before = setting.state()
        held = calls.take(calls.resource(shared=shared))
        setting.remove(held.path)
        if replaced:
            setting.make(held.path)
        assert finish(calls.engine.path_doubt(held)) is not None
        taken: Hold | Later[Hold] = calls.engine.take_anew(held)
        held.hold = finish(taken)
        assert finish(calls.engine.path_doubt(held)) is None
        assert not setting.other.take(held.path, shared=False)
        calls.drop(held)
        assert setting.state() == before

    def test_what_somebody_else_has_taken_in_its_place_is_theirs(
        self, setting: Setting, calls: Calls
    ) -> None:
        held = calls.take(calls.resource())
        setting.remove(held.path)
        setting.make(held.path)
        assert setting.other.take(held.path, shared=True)
        before = setting.state()
        with pytest.raises(Busy) as caught:
            calls.engine.take_anew(held).work()
        assert setting.other.is_named_by(caught.value.holder, held.path)
        assert setting.state() == before
        assert calls.engine.holds(held)
        calls.drop(held)
        assert setting.exists(held.path)

    def test_an_older_doubt_is_kept(self, setting: Setting, calls: Calls) -> None:
        held = calls.take(calls.resource())
        held.doubt = "an older doubt"
        calls.engine.check([held])
        assert held.doubt == "an older doubt"
        calls.drop(held)


class BlockingContract(EngineContract):
    """The tests of an engine that leaves what it takes to a thread."""

    def test_work_that_is_never_done_changes_nothing(self, setting: Setting, calls: Calls) -> None:
        wanted = calls.resource()
        before = setting.state()
        assert isinstance(calls.engine.take(wanted), Later)
        assert setting.state() == before
        setting.make(wanted.path)
        assert setting.other.take(wanted.path, shared=False)

    def test_work_meets_what_there_is_when_it_is_done(self, setting: Setting, calls: Calls) -> None:
        wanted = calls.resource()
        taken = calls.engine.take(wanted)
        assert isinstance(taken, Later)
        setting.make(wanted.path)
        assert setting.other.take(wanted.path, shared=False)
        with pytest.raises(Busy) as caught:
            taken.work()
        assert setting.other.is_named_by(caught.value.holder, wanted.path)

    def test_everything_is_left_to_a_thread(self, calls: Calls) -> None:
        assert left_to_threads(calls) == ["make_lockspace", "create", "take", "drop", "delete"]


def left_to_threads(calls: Calls) -> list[str]:
    """Use each method of an engine once that may block, and return those that were left to a thread."""
    calls.make_lockspace(calls.setting.new_lockspace())
    resource = calls.resource()
    calls.create(resource.path)
    calls.drop(calls.take(resource))
    calls.delete(resource.path, resource.name)
    return calls.left


def finish(result: T | Later[T]) -> T:
    """Return what an engine's method has returned, or what its work returns in the end."""
    while isinstance(result, Later):
        result = result.work()
    return result
