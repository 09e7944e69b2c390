"""If anything is wrong before the exec, the daemon goes on with all its locks, and logs the reason."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.handover.conftest import MakeDisk, MakeGuest
from tests.handover.program import Program, answers, refused_upgrade, upgrade
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.trouble.guest import Guest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small /run needs root")


@pytest.fixture
def disk(make_disk: MakeDisk) -> Path:
    return make_disk()


@pytest.fixture
def guest(make_guest: MakeGuest, disk: Path) -> Guest:
    """A guest with a lock that has to survive the test."""
    guest = make_guest()
    guest.acquire(disk)
    return guest


def still_serves(daemon: PrivateDaemon, guest: Guest, disk: Path) -> None:
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    guest.release(disk)
    assert locks_on(disk) == []
    guest.acquire(disk)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\necho 'ImportError: no module' >&2; exit 1\n", "ended with 1: ImportError: no module"),
        ("#!/nonexistent\n", "cannot be run: No such file or directory"),
        ("no program at all", "cannot be run: Exec format error"),
        ("#!/bin/sh\n", "is no lock daemon"),
        ("#!/bin/sh\necho no daemon\n", "is no lock daemon"),
        ('#!/bin/sh\nrm "$0"; echo "virtlockd (lockd) 9"\n', "cannot be executed: No such file"),
        (
            '#!/bin/sh\necho x >"$0.x"; chmod +x "$0.x"; mv "$0.x" "$0"; echo "virtlockd (lockd) 9"\n',
            "Exec format",
        ),
        ('#!/bin/sh\nchmod -x "$0"; echo "virtlockd (lockd) 9"\n', "cannot be executed: Permission denied"),
    ],
)
def test_a_program_that_cannot_take_over_is_refused(
    daemon: PrivateDaemon, program: Program, guest: Guest, disk: Path, script: str, reason: str
) -> None:
    program.install_script(script)
    log = refused_upgrade(daemon)
    assert reason in log
    assert str(program.path) in log
    assert len(log.splitlines()) == 1
    still_serves(daemon, guest, disk)
    program.install("lockd")
    upgrade(daemon)
    still_serves(daemon, guest, disk)


def test_a_missing_program_is_refused(
    daemon: PrivateDaemon, program: Program, guest: Guest, disk: Path
) -> None:
    program.path.unlink()
    assert "No such file or directory" in refused_upgrade(daemon)
    still_serves(daemon, guest, disk)


def test_a_program_that_lacks_an_option_is_refused(tmp_path: Path, program: Program, disk: Path) -> None:
    """It would end after the exec. An older version may not know an option of the running one."""
    wrapper = ["sh", "-c", 'exec "$@" --verbose', "sh"]
    with (
        private_daemon(tmp_path / "daemon", program.path, wrapper=wrapper) as daemon,
        Guest(daemon.socket) as guest,
    ):
        guest.acquire(disk)
        text = program.path.read_text()
        program.install_script(text.replace("import sys", "import sys\nsys.argv.append('--unheard-of')", 1))
        assert "unrecognized arguments: --unheard-of" in refused_upgrade(daemon)
        still_serves(daemon, guest, disk)


@pytest.fixture
def small_run(tmp_path: Path) -> Iterator[Path]:
    """The future /run of a daemon, on a file system of only 64 KiB."""
    run = tmp_path / "daemon" / "run"
    run.mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", run], check=True)
    yield run
    subprocess.run(["umount", "--lazy", run], check=True)


def fill(path: Path) -> None:
    """Write to a file until the file system is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@needs_root
def test_an_upgrade_is_refused_when_the_state_does_not_fit_on_the_disk(
    tmp_path: Path, small_run: Path, program: Program, disk: Path
) -> None:
    with private_daemon(tmp_path / "daemon", program.path) as daemon, Guest(daemon.socket) as guest:
        guest.acquire(disk)
        filler = small_run / "filler"
        fill(filler)
        assert "the state cannot be written: No space left on device" in refused_upgrade(daemon)
        assert not list(small_run.glob("*.json*"))
        still_serves(daemon, guest, disk)
        filler.unlink()
        upgrade(daemon)
        still_serves(daemon, guest, disk)


def test_an_upgrade_is_refused_when_the_state_file_cannot_be_replaced(
    daemon: PrivateDaemon, guest: Guest, disk: Path, state_file: Path
) -> None:
    (state_file / "in-the-way").mkdir(parents=True)
    assert "the state cannot be written: Is a directory" in refused_upgrade(daemon)
    still_serves(daemon, guest, disk)


def test_systemd_learns_that_the_upgrade_is_over(
    tmp_path: Path, program: Program, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise systemd would show the service as reloading for ever."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with private_daemon(tmp_path / "daemon", program.path) as daemon, Guest(daemon.socket) as guest:
            guest.acquire(disk)
            in_the_way = daemon.run_directory / "virtlockd-restart-exec.json" / "directory"
            if os.geteuid() != 0:
                in_the_way = daemon.socket.parent / in_the_way.relative_to(daemon.run_directory)
            in_the_way.mkdir(parents=True)
            refused_upgrade(daemon)
            assert answers(daemon)
            heard = b""
            while b"RELOADING=1" not in heard:
                heard = manager.recv(4096)
            while b"READY=1" not in heard:
                heard = manager.recv(4096)
            in_the_way.rmdir()
            in_the_way.parent.rmdir()
            upgrade(daemon)
            while b"RELOADING=1" not in heard:
                heard = manager.recv(4096)
            assert b"MONOTONIC_USEC=" in heard
            while b"READY=1" not in heard:
                heard = manager.recv(4096)
