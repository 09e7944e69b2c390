"""Files and threads of a running daemon, and what is left after its end."""

import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lockd.linux.peers import credentials_of
from tests.kernel_locks import locks_on
from tests.private_daemon import LOCKD, PrivateDaemon, private_daemon
from tests.raw_client import AUTOCREATE, RawClient
from tests.waiting import wait_until


def files_in(directory: Path) -> list[str]:
    """Return the names of all files below a directory, sockets included."""
    return sorted(path.name for path in directory.rglob("*") if not path.is_dir())


def listens(daemon: PrivateDaemon) -> bool:
    """Return whether a daemon, and not the one before it, listens at the admin socket, which it makes last."""
    with socket.socket(socket.AF_UNIX) as connection:
        return (
            connection.connect_ex(str(daemon.admin_socket)) == 0
            and credentials_of(connection).pid == daemon.pid
        )


FILES = ["virtlockd-admin-sock", "virtlockd-sock", "virtlockd.pid"]


def test_only_its_user_may_reach_the_sockets(daemon: PrivateDaemon) -> None:
    assert files_in(daemon.run_directory) == FILES
    for path in (daemon.socket, daemon.admin_socket):
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077


def test_it_has_one_thread_while_nothing_blocks(daemon: PrivateDaemon) -> None:
    """A second thread would make every system call of the first one slower."""
    with RawClient(daemon) as client:
        assert client.create_lockspace("") is None
        assert len(list(Path(f"/proc/{daemon.pid}/task").iterdir())) == 1


_ALONE = """
import os, sys
sys.addaudithook(lambda event, _: os._exit(3) if event in ("subprocess.Popen", "os.fork") else None)
sys.argv = ["virtlockd", "--version"]
from lockd.daemon.command import main
main()
"""


def test_the_start_runs_no_other_program() -> None:
    """After a live upgrade, a child would first close its copies of locked files: a server that hangs stops it there."""
    assert subprocess.run([sys.executable, "-c", _ALONE], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_ends_it_cleanly(daemon: PrivateDaemon, number: signal.Signals, tmp_path: Path) -> None:
    """This holds also while clients are connected and locks are held: the daemon warns of these locks."""
    lease = tmp_path / "lease"
    with RawClient(daemon) as client:
        assert client.acquire(lease, flags=AUTOCREATE) is None
        daemon.signal(number)
        assert daemon.process.wait(15) == 0
        with pytest.raises(ConnectionResetError):
            client.reply()
    assert files_in(daemon.run_directory) == []
    assert locks_on(lease) == []
    assert "the daemon ends while 1 lock is held" in daemon.log.read_text()
    assert "Traceback" not in daemon.output() + daemon.log.read_text()


def test_sighup_ends_nothing(daemon: PrivateDaemon) -> None:
    with RawClient(daemon) as client:
        daemon.signal(signal.SIGHUP)
        assert client.create_lockspace("") is None
    with RawClient(daemon):
        assert daemon.process.poll() is None


def test_a_daemon_leaves_the_files_of_another_one(tmp_path: Path) -> None:
    """Somebody has removed its pid file, so that another daemon could start in its place."""
    with private_daemon(tmp_path / "daemon") as first:
        for path in first.run_directory.rglob("virtlockd.pid"):
            path.unlink()
        with private_daemon(tmp_path / "daemon") as second:
            wait_until(lambda: listens(second), "the other daemon has taken the place")
            first.signal(signal.SIGTERM)
            assert first.process.wait(15) == 0
            assert files_in(second.run_directory) == FILES
            with RawClient(second) as client:
                assert client.create_lockspace("") is None
            second.signal(signal.SIGTERM)
            assert second.process.wait(15) == 0
        assert files_in(second.run_directory) == []


def test_a_daemon_without_its_pid_file_still_removes_its_sockets(daemon: PrivateDaemon) -> None:
    for path in daemon.run_directory.rglob("virtlockd.pid"):
        path.unlink()
    daemon.signal(signal.SIGTERM)
    assert daemon.process.wait(15) == 0
    assert files_in(daemon.run_directory) == []


def test_files_of_a_killed_daemon_do_not_hinder_its_successor(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon") as killed:
        pass
    assert files_in(killed.run_directory) == FILES
    with private_daemon(tmp_path / "daemon") as successor, RawClient(successor) as client:
        assert client.create_lockspace(tmp_path / "leases") is None


@pytest.fixture
def idle_command(tmp_path: Path) -> Path:
    """A command that runs virtlockd so that it ends after one second without clients and locks."""
    command = tmp_path / "virtlockd"
    command.write_text(f'#!/bin/sh\nexec {LOCKD} --timeout=1 "$@"\n')
    command.chmod(0o755)
    return command


def test_an_idle_daemon_ends_after_its_timeout(idle_command: Path, tmp_path: Path) -> None:
    """A client alone, or a lock alone, keeps a daemon from being idle."""
    lease = tmp_path / "lease"
    with (
        private_daemon(tmp_path / "connected", idle_command) as connected,
        private_daemon(tmp_path / "locked", idle_command) as locked,
        private_daemon(tmp_path / "idle", idle_command) as idle,
    ):
        with RawClient(connected):
            with RawClient(locked) as client:
                assert client.acquire(lease, flags=AUTOCREATE) is None
            assert idle.process.wait(15) == 0
            # It started its timeout earlier than the other two would. Wait for one more idle daemon.
            with private_daemon(tmp_path / "idle", idle_command) as another:
                assert another.process.wait(15) == 0
            assert connected.process.poll() is None
            assert locked.process.poll() is None
        with RawClient(locked) as client:
            assert client.release(lease) is None
        for daemon in (connected, locked):
            assert daemon.process.wait(15) == 0
            assert files_in(daemon.run_directory) == []
