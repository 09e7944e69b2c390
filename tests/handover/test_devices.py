"""Block devices that are taken over from the program before: nobody else gets what has the same data."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.handover.conftest import MakeGuest
from tests.handover.program import Program, answers, replace_program, said, upgrade, upgrade_to_new_sockets
from tests.handover.test_adopted import doubts
from tests.lock_fixtures import loop_device, partitioned
from tests.private_daemon import LOCKD, VIRTLOCKD, PrivateDaemon, private_daemon
from tests.trouble.guest import Guest, Refused
from tests.trouble.hanging_filesystem import HangingFilesystem, can_mount, mounted
from tests.waiting import wait_until


def refusal(guest: Guest, path: Path) -> str:
    """Try to acquire a path. Return why that is refused; if it is granted, release it and return nothing."""
    try:
        guest.acquire(path)
    except Refused as refused:
        return str(refused)
    guest.release(path)
    return ""


def test_one_that_a_call_had_opened_which_the_upgrade_cut_off(
    daemon: PrivateDaemon, program: Program, make_guest: MakeGuest, tmp_path: Path
) -> None:
    with partitioned(tmp_path / "file") as (file, disk, (first, _)):
        program.install_lockd_after(f"os.set_inheritable(os.open({str(disk)!r}, os.O_RDWR), True)")
        upgrade(daemon)
        guest = make_guest()
        reason = f"is locked by a call that an upgrade cut off, through {disk}"
        for path, relation in ((file, "which is on it"), (first, "which it is on")):
            wait_until(
                lambda path=path, relation=relation: f"{reason}, {relation}" in refusal(guest, path),  # type: ignore[misc]
                "it is claimed",
            )
        # The call is repeated.
        guest.acquire(disk)
        guest.release(disk)
        assert [refusal(guest, path) for path in (file, first)] == ["", ""]


def test_one_of_which_no_state_tells(
    daemon: PrivateDaemon, program: Program, make_guest: MakeGuest, tmp_path: Path
) -> None:
    with partitioned(tmp_path / "file") as (file, disk, partitions), loop_device(file) as second:
        make_guest().acquire(disk)
        program.install_lockd_after(f"os.chown(path, 1, 1); os.execv({str(LOCKD)!r}, sys.argv)")
        upgrade_to_new_sockets(daemon)
        guest = make_guest()
        for path in (file, second, *partitions):
            reason = f"is locked by a daemon before this one, whose state is lost, through {disk}, which "
            assert reason in refusal(guest, path)


class Host:
    """virtlockd, which is to be replaced by lockd, and a file server that can hang."""

    def __init__(self, daemon: PrivateDaemon, program: Program, filesystem: HangingFilesystem) -> None:
        self.daemon = daemon
        self.program = program
        self.filesystem = filesystem


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    if not VIRTLOCKD.exists():
        pytest.skip(f"{VIRTLOCKD} is not there")
    if not can_mount():
        pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
    program = Program(tmp_path / "sbin")
    program.install("virtlockd")
    with (
        mounted(tmp_path / "server") as filesystem,
        private_daemon(tmp_path / "daemon", program.path) as daemon,
    ):
        yield Host(daemon, program, filesystem)
        filesystem.release_all()


def test_one_of_virtlockd_s_on_a_file_of_a_server_that_hangs(host: Host) -> None:
    """virtlockd's state does not tell on which file it is, and nobody waits until the server does."""
    file = host.filesystem.path / "file"
    file.touch()
    os.truncate(file, 1 << 20)
    with loop_device(file) as disk, Guest(host.daemon.socket) as owner:
        owner.acquire(disk)
        host.program.install("lockd")
        host.filesystem.hang("everything")
        replace_program(host.daemon)
        assert answers(host.daemon)
        with Guest(host.daemon.socket) as rival:
            with pytest.raises(Refused, match="is locked by domain"):
                rival.acquire(disk)
            host.filesystem.release_all()
            wait_until(
                lambda: f"through {disk}, which is on it" in refusal(rival, file),
                "it is known on which file the device is",
            )
            owner.release(disk)
            assert refusal(rival, file) == ""


def test_one_of_virtlockd_s_is_in_doubt_if_what_has_the_same_data_is_locked_too(
    host: Host, tmp_path: Path
) -> None:
    """Which of the two is taken over first depends on virtlockd's state."""
    file = tmp_path / "file"
    file.write_bytes(bytes(1 << 20))
    with loop_device(file) as disk, Guest(host.daemon.socket) as owner, Guest(host.daemon.socket) as other:
        owner.acquire(file)
        other.acquire(disk)
        host.program.install("lockd")
        upgrade(host.daemon)
        ((path, doubt),) = doubts(host.daemon).items()
        assert (path, doubt) in {
            (str(disk), f"{file}, which it is on, is locked too"),
            (str(file), f"{disk}, which is on it, is locked too"),
        }
        wait_until(lambda: f"{path} was taken over, but {doubt}" in said(host.daemon), "the log says it")
        owner.release(file)
        other.release(disk)
