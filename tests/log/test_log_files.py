"""No file is both a log file and locked: closing the log file would end the lock (Invariant 1)."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd.client.errors import Busy
from tests.kernel_locks import locks_on
from tests.log.log_control import LogControl, lock_held, log_an_error
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.waiting import wait_until


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[PrivateDaemon]:
    with private_daemon(tmp_path / "daemon") as daemon:
        yield daemon


def _open_on(daemon: PrivateDaemon, path: Path) -> int:
    """Return how many descriptors of the daemon refer to a file."""
    found = 0
    for fd in Path(f"/proc/{daemon.pid}/fd").iterdir():
        try:
            found += os.path.samestat(fd.stat(), path.stat())
        except FileNotFoundError:
            continue
    return found


def test_the_log_file_cannot_be_locked(daemon: PrivateDaemon, tmp_path: Path) -> None:
    log = LogControl(daemon)
    log.set_outputs(f"3:file:{tmp_path}/log")
    with (
        pytest.raises(Busy, match="is locked by the daemon itself, as its log"),
        lock_held(daemon, tmp_path / "log"),
    ):
        pass
    log.set_outputs(f"3:file:{tmp_path}/other")
    with lock_held(daemon, tmp_path / "log"):
        assert [lock.pid for lock in locks_on(tmp_path / "log")] == [daemon.pid]


@pytest.mark.parametrize("alias", ["itself", "hard link", "symbolic link"])
def test_a_locked_file_cannot_become_the_log(daemon: PrivateDaemon, tmp_path: Path, alias: str) -> None:
    disk, name = tmp_path / "disk", tmp_path / "name"
    disk.touch()
    match alias:
        case "itself":
            name = disk
        case "hard link":
            name.hardlink_to(disk)
        case "symbolic link":
            name.symlink_to(disk)
    log = LogControl(daemon)
    before = log.outputs
    with lock_held(daemon, disk):
        error = log.refused_outputs(f"1:file:{tmp_path}/log 3:file:{name}")
        assert error.message == f"failed to open {name}: it is held as a lock"
        assert log.outputs == before
        assert [lock.pid for lock in locks_on(disk)] == [daemon.pid]
        assert _open_on(daemon, tmp_path / "log") == 0
    assert disk.read_bytes() == b""


def test_a_path_that_no_file_can_have_is_refused(daemon: PrivateDaemon, tmp_path: Path) -> None:
    error = LogControl(daemon).refused_outputs(f"1:file:{tmp_path}/\0/log")
    assert error.message == f"failed to open {tmp_path}/\0/log: Invalid argument"
    assert "could not be served" not in daemon.log.read_text()


def test_a_file_stays_open_when_only_its_level_changes(daemon: PrivateDaemon, tmp_path: Path) -> None:
    path, alias = tmp_path / "log", tmp_path / "alias"
    log = LogControl(daemon)
    for level in (1, 2, 3, 4):
        log.set_outputs(f"{level}:file:{path}")
        assert _open_on(daemon, path) == 1
    alias.hardlink_to(path)
    log.set_outputs(f"4:file:{alias}")
    log_an_error(daemon)
    assert _open_on(daemon, path) == 1
    assert path.read_text().count("was refused") == 1
    log.set_outputs("4:stderr")
    assert _open_on(daemon, path) == 0


def test_a_file_is_made_for_its_owner_only_and_added_to(daemon: PrivateDaemon, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("what was there\n")
    LogControl(daemon).set_outputs(f"3:file:{tmp_path}/old 3:file:{tmp_path}/new")
    log_an_error(daemon)
    assert (tmp_path / "old").read_text().startswith("what was there\n2")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_cut_off_goes_on_from_its_start(daemon: PrivateDaemon, tmp_path: Path) -> None:
    """logrotate's option copytruncate truncates a file like this."""
    path = tmp_path / "log"
    LogControl(daemon).set_outputs(f"3:file:{path}")
    log_an_error(daemon)
    os.truncate(path, 0)
    log_an_error(daemon)
    assert path.read_bytes().startswith(b"2")


# Live upgrades


def _upgrade(daemon: PrivateDaemon) -> None:
    before = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: daemon.running_image() != before, "the program is replaced")
    with daemon.connect():
        LogControl(daemon).filters  # noqa: B018  # Wait until the next program answers.


def test_log_settings_survive_a_live_upgrade(daemon: PrivateDaemon, tmp_path: Path) -> None:
    path, disk = tmp_path / "log", tmp_path / "disk"
    disk.touch()
    log = LogControl(daemon)
    log.set_outputs(f"2:file:{path}")
    log.set_filters("2:events")
    for _ in range(2):
        _upgrade(daemon)
    assert (log.outputs, log.filters) == (f"2:file:{path}", "2:*events* ")
    with lock_held(daemon, disk):
        assert " acquired " in path.read_text()
    assert _open_on(daemon, path) == 1
    with pytest.raises(Busy, match="as its log"), lock_held(daemon, path):
        pass
    log.set_outputs("4:stderr")
    assert _open_on(daemon, path) == 0


def test_a_live_upgrade_reads_the_configuration_if_no_log_setting_was_changed(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon") as daemon:
        configuration = daemon.directory / "virtlockd.conf"
        configuration.write_text(f'log_outputs = "3:file:{tmp_path}/other"\nlog_filters = "1:other"\n')
        _upgrade(daemon)
        log = LogControl(daemon)
        assert (log.outputs, log.filters) == (f"3:file:{tmp_path}/other", "1:*other* ")
        assert _open_on(daemon, daemon.log) == 0


def test_a_live_upgrade_opens_a_log_file_that_was_moved_away_anew(
    daemon: PrivateDaemon, tmp_path: Path
) -> None:
    daemon.log.rename(tmp_path / "moved")
    _upgrade(daemon)
    log_an_error(daemon)
    assert "was refused" in daemon.log.read_text()
    assert _open_on(daemon, daemon.log) == 1
    assert _open_on(daemon, tmp_path / "moved") == 0


@pytest.mark.parametrize("outputs", ["nonsense", "3:file:/nonexistent/log"])
def test_a_live_upgrade_goes_on_with_settings_that_are_wrong(tmp_path: Path, outputs: str) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    with private_daemon(tmp_path / "daemon") as daemon, lock_held(daemon, disk):
        (daemon.directory / "virtlockd.conf").write_text(f'log_outputs = "{outputs}"\n')
        _upgrade(daemon)
        assert [lock.pid for lock in locks_on(disk)] == [daemon.pid]
        assert LogControl(daemon).outputs == "3:stderr"
        assert outputs.removeprefix("3:file:") in daemon.output()
