"""Paths that lead to something else than a regular file or a block device.

A user whose disk it is can have the path lead anywhere, by a symbolic link. virtlockd opens whatever is there. lockd
refuses it before it is opened.
"""

import errno
import os
import pty
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.differences.conftest import Scene
from tests.kernel_locks import KernelLock, locks_on
from tests.raw_client import AUTOCREATE

NEITHER = "neither a regular file nor a block device"


def null_device(scene: Scene) -> Path:
    """Make a device node of /dev/null."""
    if os.geteuid() != 0:
        pytest.skip("making a device node needs root")
    path = scene.directory / "device"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return path


def pipe(scene: Scene) -> Path:
    path = scene.directory / "pipe"
    os.mkfifo(path)
    return path


def has_a_reader(path: Path) -> bool:
    """Return whether a process has the pipe open for reading (fifo(7))."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno != errno.ENXIO
    return True


def test_virtlockd_locks_a_character_device_and_a_pipe(virtlockd: Scene) -> None:
    for path in (null_device(virtlockd), pipe(virtlockd)):
        assert virtlockd.client.acquire(path) is None
        assert locks_on(path) == [KernelLock("WRITE", virtlockd.daemon.pid)]


def test_virtlockd_waits_for_ever_for_the_reader_of_a_fifo(virtlockd: Scene) -> None:
    virtlockd.client.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        virtlockd.client.create(pipe(virtlockd))


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by a link"])
def test_what_is_neither_a_file_nor_a_block_device_is_refused(lockd: Scene, linked: bool) -> None:
    client = lockd.client
    for path, what in ((null_device(lockd), "character device"), (pipe(lockd), "pipe")):
        name = path
        if linked:
            name = path.with_name(f"link to {path.name}")
            name.symlink_to(path.name)
        reason = f"it is a {what}, {NEITHER}"
        assert client.acquire(name) == f"Unable to open resource {name}: {reason}"
        assert client.acquire(name, flags=AUTOCREATE) == f"Unable to open/create resource {name}: {reason}"
        assert client.create(name) == f"cannot create file '{name}': {reason}"
        assert locks_on(path) == []
    assert not has_a_reader(lockd.directory / "pipe")
    assert client.acquire(lockd.disk()) is None


@pytest.fixture
def terminal() -> Iterator[str]:
    """The path of a new terminal, which is nobody's controlling terminal."""
    master, slave = pty.openpty()
    yield os.ttyname(slave)
    for fd in (master, slave):
        with suppress(OSError):
            os.close(fd)


def controlling_terminal(pid: int) -> int:
    """Return the device number of a process's controlling terminal; 0 for none (tty_nr in proc_pid_stat(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4])


def test_a_terminal_never_becomes_that_of_the_daemon(lockd_as_a_service: Scene, terminal: str) -> None:
    """Otherwise who owns the disk, and has put a link to their terminal in its place, ends the daemon by ^C."""
    link = lockd_as_a_service.directory / "disk"
    link.symlink_to(terminal)
    for flags in (0, AUTOCREATE):
        assert NEITHER in (lockd_as_a_service.client.acquire(link, flags=flags) or "")
    assert controlling_terminal(lockd_as_a_service.daemon.pid) == 0


def test_virtlockd_gets_a_terminal(virtlockd_as_a_service: Scene, terminal: str) -> None:
    link = virtlockd_as_a_service.directory / "disk"
    link.symlink_to(terminal)
    assert virtlockd_as_a_service.client.acquire(link) is None
    assert controlling_terminal(virtlockd_as_a_service.daemon.pid) == os.stat(terminal).st_rdev


# Files that would be made


@pytest.mark.parametrize("target", ["not there", "../elsewhere/not there"])
def test_no_file_is_made_where_a_link_points(lockd: Scene, target: str) -> None:
    leases = lockd.leases()
    (lockd.directory / "elsewhere").mkdir()
    link = leases / "x"
    link.symlink_to(target)
    reason = "it is a symbolic link to a file that does not exist"
    assert lockd.client.acquire("x", leases, AUTOCREATE) == f"Unable to open/create resource {link}: {reason}"
    assert lockd.client.create("x", leases) == f"cannot create file '{link}': {reason}"
    assert not link.exists()


def test_virtlockd_makes_the_file_where_a_link_points(virtlockd: Scene) -> None:
    leases = virtlockd.leases()
    (leases / "x").symlink_to("../elsewhere")
    assert virtlockd.client.acquire("x", leases, AUTOCREATE) is None
    assert (virtlockd.directory / "elsewhere").exists()
