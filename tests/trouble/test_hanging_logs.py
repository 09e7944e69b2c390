"""Nobody waits for a log file whose file system does not answer."""

import os
import signal
from pathlib import Path

import pytest

from lockd.client.errors import Busy
from tests.differential import pair
from tests.log.log_control import LogControl, lock_held, log_an_error
from tests.private_daemon import VIRTLOCKD, PrivateDaemon, private_daemon
from tests.raw_client import NOBODY, RawClient
from tests.trouble.hanging_filesystem import HangingFilesystem
from tests.waiting import wait_until

MANY = 1500
"""More messages than the daemon keeps for a file system that does not answer."""


@pytest.fixture
def file(filesystem: HangingFilesystem) -> Path:
    return filesystem.path / "log"


def test_a_log_file_is_opened_when_its_file_system_answers(
    filesystem: HangingFilesystem, daemon: PrivateDaemon, file: Path, disk: Path
) -> None:
    filesystem.hang("everything")
    LogControl(daemon).set_outputs(f"3:file:{file}")
    log_an_error(daemon)
    with RawClient(daemon) as client:
        assert client.acquire(disk) is None
    filesystem.release_all()
    wait_until(lambda: file.exists() and "was refused" in file.read_text(), "the message is written")


def test_virtlockd_lets_everybody_wait_for_its_log(
    filesystem: HangingFilesystem, tmp_path: Path, file: Path
) -> None:
    if reason := pair.missing():
        pytest.skip(reason)
    with private_daemon(tmp_path / "virtlockd", VIRTLOCKD) as daemon:
        log = LogControl(daemon)
        log.set_outputs(f"1:file:{file}")
        filesystem.hang("write")
        with RawClient(daemon, owner=None, patience=0.5) as client, pytest.raises(TimeoutError):
            client.register(NOBODY)
        filesystem.release_all()


@pytest.mark.parametrize("operation", ["write", "everything"])
def test_nobody_waits_when_the_file_system_of_the_log_hangs_later(
    filesystem: HangingFilesystem, daemon: PrivateDaemon, file: Path, disk: Path, operation: str
) -> None:
    log = LogControl(daemon)
    log.set_filters("2:*")
    log.set_outputs(f"2:file:{file} 4:stderr")
    log_an_error(daemon)
    wait_until(lambda: file.exists() and "was refused" in file.read_text(), "the message is written")
    filesystem.hang(operation)
    with RawClient(daemon) as client:
        for _ in range(MANY):
            assert client.acquire(disk) is None
            assert client.release(disk) is None
    assert f"{file}: messages are lost, as the file system {filesystem.path}" in daemon.output()
    filesystem.release_all()
    wait_until(
        lambda: " messages were lost" in file.read_text(), "the file says how many messages are missing"
    )
    written = file.read_text()
    (line,) = (line for line in written.splitlines() if line.endswith(" messages were lost"))
    lost = int(line.split()[-4])
    # The message that messages are lost is one of them: other outputs have it.
    assert written.count(" acquired ") + written.count(" released ") + lost == 2 * MANY + 1


def test_nobody_waits_when_the_file_system_of_standard_error_hangs(
    filesystem: HangingFilesystem, tmp_path: Path, file: Path, disk: Path
) -> None:
    wrapper = ("sh", "-c", f'exec "$@" 2>>{file}', "sh")
    with private_daemon(tmp_path / "own", wrapper=wrapper, settings='log_outputs = "3:stderr"\n') as daemon:
        log_an_error(daemon, "first")
        wait_until(lambda: "/first: " in file.read_text(), "the message is written")
        filesystem.hang("everything")
        log_an_error(daemon, "second")
        with RawClient(daemon) as client:
            assert client.acquire(disk) is None
        filesystem.release_all()
        wait_until(lambda: "/second: " in file.read_text(), "the message is written")


def test_lines_are_whole_and_in_order(daemon: PrivateDaemon, file: Path, disk: Path) -> None:
    log = LogControl(daemon)
    log.set_filters("2:*")
    log.set_outputs(f"2:file:{file}")
    for _ in range(3):
        with lock_held(daemon, disk):
            pass
    wait_until(lambda: file.exists() and file.read_text().count(" released ") == 3, "all is written")
    kinds = ["acquired" if " acquired " in line else "released" for line in file.read_text().splitlines()]
    assert kinds == ["acquired", "released"] * 3


def test_a_log_file_on_a_slow_file_system_cannot_be_locked(
    daemon: PrivateDaemon, file: Path, tmp_path: Path
) -> None:
    log = LogControl(daemon)
    log.set_outputs(f"3:file:{file}")
    log_an_error(daemon)
    wait_until(lambda: file.exists() and file.read_text() != "", "the message is written")
    with pytest.raises(Busy, match="is locked by the daemon itself, as its log"), lock_held(daemon, file):
        pass
    log.set_outputs(f"3:file:{tmp_path}/other")

    def can_be_locked() -> bool:
        try:
            with lock_held(daemon, file):
                return True
        except Busy:
            return False

    wait_until(can_be_locked, "the log file is closed")


def test_the_same_file_stays_open_when_it_is_set_again(daemon: PrivateDaemon, file: Path) -> None:
    log = LogControl(daemon)
    for level in (1, 2, 3):
        log.set_outputs(f"{level}:file:{file}")
        log_an_error(daemon)
    wait_until(lambda: file.exists() and file.read_text().count("was refused") == 3, "all is written")
    wait_until(lambda: _open_on(daemon, file) == 1, "the file is open once")


def test_a_log_file_that_cannot_be_opened_is_replaced_by_standard_error(
    filesystem: HangingFilesystem, daemon: PrivateDaemon
) -> None:
    file = filesystem.path / "missing" / "log"
    LogControl(daemon).set_outputs(f"3:file:{file}")
    log_an_error(daemon)
    wait_until(lambda: "was refused" in daemon.output(), "the message reaches standard error")
    assert f"failed to open {file}: No such file or directory" in daemon.output()


def test_a_live_upgrade_goes_on_writing_the_log(
    filesystem: HangingFilesystem, daemon: PrivateDaemon, file: Path
) -> None:
    LogControl(daemon).set_outputs(f"3:file:{file}")
    log_an_error(daemon)
    wait_until(lambda: file.exists() and file.read_text() != "", "the message is written")
    before = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: daemon.running_image() != before, "the program is replaced")
    log_an_error(daemon)
    wait_until(lambda: file.read_text().count("was refused") == 2, "the next program writes to the file")
    wait_until(lambda: _open_on(daemon, file) == 1, "the file is open once")


def test_the_end_of_the_daemon_is_written_and_does_not_wait_for_long(
    filesystem: HangingFilesystem, daemon: PrivateDaemon, file: Path, disk: Path
) -> None:
    LogControl(daemon).set_outputs(f"3:file:{file}")
    with RawClient(daemon) as client:
        assert client.acquire(disk) is None
        daemon.signal(signal.SIGTERM)
        daemon.process.wait(timeout=15)
    assert "the daemon ends while 1 lock is held" in file.read_text()


def test_a_hanging_log_file_does_not_delay_the_end_of_the_daemon(
    filesystem: HangingFilesystem, daemon: PrivateDaemon, file: Path
) -> None:
    """A thread that hangs in a system call keeps the process. It keeps nothing that others wait for."""
    filesystem.hang("everything")
    LogControl(daemon).set_outputs(f"3:file:{file}")
    filesystem.wait_for("lookup")
    daemon.signal(signal.SIGTERM)
    wait_until(lambda: not daemon.socket.exists(), "the daemon ends")


def _open_on(daemon: PrivateDaemon, path: Path) -> int:
    """Return how many descriptors of the daemon refer to a file."""
    targets = []
    for fd in Path(f"/proc/{daemon.pid}/fd").iterdir():
        try:
            targets.append(os.readlink(fd))
        except FileNotFoundError:
            continue
    return targets.count(str(path))
