"""The engine of files keeps the contract: on local files, and on file systems whose calls may block."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lockd.engines.files.engine import FilesEngine
from lockd.engines.files.inodes import Inodes
from lockd.engines.files.slow_mounts import SlowMounts
from lockd.linux.descriptors import open_files
from lockd.locks import errors
from lockd.locks.engine import Engine, Later
from lockd.locks.resource import DIRECT
from tests.engines.contract import BlockingContract, Calls, EngineContract, Other, Setting, left_to_threads
from tests.kernel_locks import locks_of
from tests.lock_fixtures import slow_mounts
from tests.outsider import Outsider
from tests.private_mounts import mount
from tests.trouble import hanging_filesystem
from tests.trouble.hanging_filesystem import HangingFilesystem


class OtherDaemon(Outsider):
    """A process that takes its locks with an engine of files of its own."""

    command = (sys.executable, str(Path(__file__).with_name("other_daemon.py")))


class OtherProcess(Other):
    """Another process of this host, which holds fcntl locks."""

    def __init__(self, process: Outsider) -> None:
        self._process = process

    def take(self, path: str, *, shared: bool) -> bool:
        return self._process.lock(Path(path), "READ" if shared else "WRITE")

    def drop_all(self) -> None:
        self._process.unlock_all()

    def is_named_by(self, holder: Any, path: str) -> bool:
        return bool(holder == errors.Outsider(self._process.pid, path))


class FilesSetting(Setting):
    """A directory for the lockspace, in another directory for everything else.

    :param directory: the directory.
    :param outsider: the other process.
    :param mounts: returns which paths may block, for each new engine.
    """

    invalid_names: Sequence[str] = ("", ".", "..", "../disk", "/disk", "a/b", "nul\0")
    invalid_lockspaces = ("", "leases", "./leases", "/leases\0/x")

    def __init__(self, directory: Path, outsider: Outsider, mounts: Callable[[], SlowMounts]) -> None:
        self.directory = directory
        self.leases = directory / "leases"
        self.leases.mkdir()
        self.lockspace = str(self.leases)
        self.other = OtherProcess(outsider)
        self._pids = (os.getpid(), outsider.pid)
        self._mounts = mounts

    def new_engine(self) -> Engine:
        return FilesEngine(Inodes(), self._mounts())

    def state(self) -> object:
        files = {str(path): path.lstat().st_ino for path in self.directory.rglob("*")}
        return self.descriptors(), [locks_of(pid) for pid in self._pids], files

    def descriptors(self) -> dict[int, str]:
        """Return the descriptors that this process has open on files of the directory."""
        return {fd: path for fd, path in open_files(os.getpid()) if path.startswith(str(self.directory))}

    def end(self) -> None:
        """Give up all locks. The engine of a test that passes has closed everything."""
        self.other.drop_all()
        left = self.descriptors()
        for fd in left:
            os.close(fd)  # or a failure would be the next test's too
        assert left == {}

    def unusable_name(self) -> str:
        (self.leases / "directory").mkdir()
        return self.name("directory")

    def another_name(self, path: str) -> str:
        os.link(path, self.leases / "another name")
        return self.name("another name")

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def make(self, path: str) -> None:
        Path(path).touch()

    def remove(self, path: str) -> None:
        Path(path).unlink()

    def new_lockspace(self) -> str:
        return str(self.directory / "new" / "leases")

    def occupied_path(self) -> str:
        (self.directory / "file").touch()
        return str(self.directory / "file")

    def impossible_lockspace(self) -> str:
        return f"{self.occupied_path()}/leases"

    def facts_of_virtlockd(self, path: str) -> dict[str, Any]:
        fd = os.open(path, os.O_RDWR)
        os.set_inheritable(fd, True)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        return {"fd": fd}

    def lose(self, facts: Mapping[str, Any]) -> None:
        fcntl.lockf(facts["fd"], fcntl.LOCK_UN, 1)


class DirectSetting(FilesSetting):
    """The direct lockspace: a resource's name is the path of its file."""

    invalid_names = ("", "disk", "./disk", "../disk", "/nul\0")

    def __init__(self, directory: Path, outsider: Outsider, mounts: Callable[[], SlowMounts]) -> None:
        super().__init__(directory, outsider, mounts)
        self.lockspace = DIRECT

    def name(self, word: str) -> str:
        return str(self.leases / word)


class FuseSetting(FilesSetting):
    """A FUSE file system. The kernel lists none of its locks, and its server does not list its files."""

    def __init__(self, filesystem: HangingFilesystem, outsider: Outsider) -> None:
        super().__init__(filesystem.path, outsider, SlowMounts)
        self._filesystem = filesystem
        self._words = {"directory"}

    def name(self, word: str) -> str:
        self._words.add(word)
        return word

    def state(self) -> object:
        paths = [self.leases / word for word in self._words if self.exists(str(self.leases / word))]
        files = {str(path): path.lstat().st_ino for path in paths}
        return self.descriptors(), sorted(self._filesystem.locks()), files


def no_slow_mounts() -> SlowMounts:
    """Return mounts where nothing blocks, whatever the tests' directory is on."""
    return slow_mounts({})


@pytest.fixture(scope="module")
def other_daemon() -> Iterator[OtherDaemon]:
    with OtherDaemon() as process:
        yield process


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "files"
    directory.mkdir()
    return directory


class TestLocalFiles(EngineContract):
    """On a local file system everything is done on the spot."""

    @pytest.fixture(
        params=[(FilesSetting, "outsider"), (DirectSetting, "outsider"), (FilesSetting, "other_daemon")],
        ids=["directory", "direct", "two daemons"],
    )
    def setting(self, directory: Path, request: pytest.FixtureRequest) -> Iterator[Setting]:
        kind, other = request.param
        setting = kind(directory, request.getfixturevalue(other), no_slow_mounts)
        yield setting
        setting.end()

    def test_nothing_is_left_to_a_thread(self, calls: Calls) -> None:
        assert left_to_threads(calls) == []

    def test_what_a_link_leads_to_is_left_to_a_thread(self, setting: FilesSetting, calls: Calls) -> None:
        """The link may lead to a file system that blocks."""
        (setting.directory / "target").touch()
        link = calls.resource(autocreate=False)
        os.symlink(setting.directory / "target", link.path)
        calls.take(link)
        assert not setting.other.take(str(setting.directory / "target"), shared=True)
        calls.drop(link)
        assert calls.left == ["take", "drop"]
        assert setting.other.take(str(setting.directory / "target"), shared=False)


class TestOverlay(BlockingContract):
    """An overlay may lie on top of any file system, so everything on it may block."""

    @pytest.fixture(params=[FilesSetting, DirectSetting], ids=["directory", "direct"])
    def setting(self, tree: Path, outsider: Outsider, request: pytest.FixtureRequest) -> Iterator[Setting]:
        for name in ("lower", "upper", "work", "merged"):
            (tree / name).mkdir()
        options = ",".join(f"{name}dir={tree / name}" for name in ("lower", "upper", "work"))
        mount("overlay", tree / "merged", options)
        setting = request.param(tree / "merged", outsider, SlowMounts)
        yield setting
        setting.end()

    def test_the_queue_is_that_of_the_mount_point(self, setting: FilesSetting, calls: Calls) -> None:
        taken = calls.engine.take(calls.resource())
        assert isinstance(taken, Later)
        assert taken.queue == str(setting.directory)


class TestFuse(BlockingContract):
    """On FUSE everything may block too, and the server keeps the locks."""

    @pytest.fixture
    def setting(self, tmp_path: Path, outsider: Outsider) -> Iterator[Setting]:
        if not hanging_filesystem.can_mount():
            pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
        with hanging_filesystem.mounted(tmp_path / "server") as filesystem:
            setting = FuseSetting(filesystem, outsider)
            yield setting
            setting.end()
            assert filesystem.locks() == []
