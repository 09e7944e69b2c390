"""The file system that hangs on demand works as other tests expect, tested with plain system calls."""

import errno
import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.trouble.conftest import Stage
from tests.trouble.hanging_filesystem import TOO_LONG, HangingFilesystem, ServerLock, can_mount, mounted

READ_LOCK_ELSEWHERE = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "rb"), fcntl.LOCK_SH | fcntl.LOCK_NB, 1)
except OSError as error:
    sys.exit(error.errno)
"""


@pytest.fixture
def file(filesystem: HangingFilesystem) -> Path:
    path = filesystem.path / "disk"
    path.write_bytes(b"data")
    return path


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    executor = ThreadPoolExecutor(1)
    yield executor
    # Do not wait: if a test has failed, a call may hang until the file system is unmounted.
    executor.shutdown(wait=False)


def lock(descriptor: int) -> None:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)


def lock_in_another_process(path: Path) -> int:
    return subprocess.run([sys.executable, "-c", READ_LOCK_ELSEWHERE, path], check=False).returncode


def test_files_and_directories_work(filesystem: HangingFilesystem) -> None:
    (filesystem.path / "a" / "b").mkdir(parents=True)
    file = filesystem.path / "a" / "b" / "lease"
    file.write_bytes(b"0123456789")
    assert file.read_bytes() == b"0123456789"
    os.truncate(file, 4)
    assert file.stat().st_size == 4
    file.unlink()
    assert not file.exists()


def test_a_lock_excludes_another_process_until_it_is_released(
    filesystem: HangingFilesystem, file: Path
) -> None:
    descriptor = os.open(file, os.O_RDWR)
    lock(descriptor)
    assert filesystem.locks() == [ServerLock("disk", os.getpid(), exclusive=True)]
    assert lock_in_another_process(file) == errno.EAGAIN
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1)
    assert lock_in_another_process(file) == 0
    os.close(descriptor)


def test_closing_any_descriptor_of_a_file_ends_its_locks(filesystem: HangingFilesystem, file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    lock(descriptor)
    os.close(os.open(file, os.O_RDONLY))
    assert filesystem.locks() == []
    os.close(descriptor)


def test_the_kernel_does_not_list_a_lock_that_the_server_keeps(
    filesystem: HangingFilesystem, file: Path
) -> None:
    """/proc/locks does not show locks of FUSE.

    NFS differs: its client records its locks in the kernel, too.
    """
    with file.open("r+b") as held:
        lock(held.fileno())
        device = os.fstat(held.fileno()).st_dev
        assert len(filesystem.locks()) == 1
        assert f"{os.major(device):02x}:{os.minor(device):02x}:" not in Path("/proc/locks").read_text()


def open_and_close(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR))


def open_and_lock(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    lock(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("lookup", os.stat),
        ("getattr", os.stat),
        ("open", open_and_close),
        ("setlk", open_and_lock),
        ("flush", open_and_close),
        ("everything", os.stat),
    ],
)
def test_an_operation_hangs_on_demand_and_returns_upon_release(
    filesystem: HangingFilesystem,
    file: Path,
    thread: ThreadPoolExecutor,
    operation: str,
    call: Callable[[Path], None],
) -> None:
    first = "lookup" if operation == "everything" else operation
    before = filesystem.arrived(first)
    filesystem.hang(operation)
    future: Future[None] = thread.submit(call, file)
    filesystem.wait_for(first, before + 1)
    assert not future.done()
    filesystem.release_all()
    future.result(TOO_LONG)


def test_one_file_system_hangs_and_another_does_not(stage: Stage, thread: ThreadPoolExecutor) -> None:
    hung, healthy = stage.mount("hung"), stage.mount("healthy")
    hung.hang("everything")
    future = thread.submit(os.stat, hung.path)
    hung.wait_for("getattr")
    (healthy.path / "file").write_bytes(b"")
    assert not future.done()
    hung.release_all()
    future.result(TOO_LONG)


def test_a_process_whose_request_the_server_has_cannot_be_killed(
    filesystem: HangingFilesystem, file: Path
) -> None:
    """The process is in uninterruptible sleep until the answer comes."""
    before = filesystem.arrived("open")
    interrupted = filesystem.arrived("interrupt")
    filesystem.hang("open")
    victim = subprocess.Popen(["/bin/cat", file], stdout=subprocess.DEVNULL)
    filesystem.wait_for("open", before + 1)
    victim.kill()
    # The kernel sends this to the server when the process gets the signal.
    filesystem.wait_for("interrupt", interrupted + 1)
    died = select.poll()
    died.register(os.pidfd_open(victim.pid), select.POLLIN)
    assert died.poll(100) == []
    assert _state(victim.pid) == "D"
    filesystem.release_all()
    assert died.poll(TOO_LONG * 1000) != []
    assert victim.wait() == -signal.SIGKILL


def test_requests_that_still_hang_fail_at_the_unmount(tmp_path: Path, thread: ThreadPoolExecutor) -> None:
    if not can_mount():
        pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
    with mounted(tmp_path / "server") as filesystem:
        filesystem.hang("everything")
        future = thread.submit(os.stat, filesystem.path)
        filesystem.wait_for("getattr")
    with pytest.raises(OSError, match=os.strerror(errno.ECONNABORTED)):
        future.result(TOO_LONG)


def _state(pid: int) -> str:
    """Return the letter for a process's state in /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
