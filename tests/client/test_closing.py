"""Closing a connection releases its locks, or leaves them held. It never has the daemon kill the process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.container import IN_CONTAINER
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import PrivateDaemon
from tests.waiting import wait_until

PROGRAM = Path(__file__).with_name("closing_process.py")
LOCKED = "LOCKED"


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "disk", tmp_path / "other"]
    for path in paths:
        path.touch()
    return paths


@contextmanager
def closing(
    scene: str, daemon: PrivateDaemon, disks: list[Path], wrapper: Sequence[str] = ()
) -> Iterator[list[str]]:
    """Yield what the process has printed when it has closed its connection. It lives until the end of the block."""
    root = Path(__file__).parents[2]
    command = [
        *wrapper,
        sys.executable,
        "-m",
        "tests.client.closing_process",
        scene,
        daemon.socket,
        daemon.pid,
        *disks,
    ]
    with subprocess.Popen(
        list(map(str, command)), cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines: list[str] = []
        try:
            while not lines or lines[-1] != "alive":
                line = process.stdout.readline()
                assert line, f"the process has ended with {process.wait()}"
                lines.append(line.strip())
            yield lines[:-1]
            assert process.poll() is None
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
            process.stdin.close()
            process.wait(15)


def left_locked(daemon: PrivateDaemon, disks: list[Path]) -> list[str]:
    held = [KernelLock("WRITE", daemon.pid)]
    return [path.name for path in disks if locks_on(path) == held]


@pytest.mark.parametrize(
    ("scene", "printed"),
    [
        ("closed_while_the_daemon_pauses", ["acquire: the daemon does not answer"]),
        ("closed_by_another_task", ["acquire: another task closes the connection", "acquire: the connection is closed"]),
        ("closed_though_cancelled", ["cancelled: True"]),
        ("holding_ends_with_the_connection", []),
        ("a_large_call_can_be_cancelled", []),
    ],
)  # fmt: skip
def test_closing_waits_for_the_daemon_and_releases(
    daemon: PrivateDaemon, disks: list[Path], scene: str, printed: list[str]
) -> None:
    with closing(scene, daemon, disks) as lines:
        assert lines == printed
        assert left_locked(daemon, disks) == []


@pytest.mark.parametrize(
    ("scene", "printed"),
    [
        ("closed_before_the_daemon_goes_on", "close: the daemon does not answer; LOCKED may stay locked until process "),
        ("closed_before_the_daemon_goes_on_by_trio", "close: the daemon does not answer; LOCKED may stay locked until "),
        ("closed_though_cancelled_before_the_daemon_goes_on", "cancelled: True"),
        ("closed_when_restricted", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_released_stays_held_until_the_process_ends(
    daemon: PrivateDaemon, disks: list[Path], scene: str, printed: str
) -> None:
    """The call that releases it may be carried out late. Nobody is killed for it."""
    with closing(scene, daemon, disks) as lines:
        assert "\n".join(lines).startswith(printed.replace(LOCKED, str(disks[0])))
        if scene == "closed_when_restricted":
            assert left_locked(daemon, disks) == ["disk"]
    wait_until(lambda: left_locked(daemon, disks) == [], "the locks end with the process")


def test_holding_waits_no_longer_than_it_should(daemon: PrivateDaemon, disks: list[Path]) -> None:
    with closing("holding_is_bounded", daemon, disks) as lines:
        assert lines == [f"holding: the daemon does not answer; {disks[0]} may stay locked"]
        assert left_locked(daemon, disks) == []


@pytest.mark.parametrize("scene", ["closed_beside_another_connection", "closed_beside_a_detached_connection"])
def test_closing_a_connection_keeps_the_locks_of_another_one(
    daemon: PrivateDaemon, disks: list[Path], scene: str
) -> None:
    """The daemon would take the end of either connection for the end of the process, and kill it."""
    with closing(scene, daemon, disks):
        assert left_locked(daemon, disks) == ["disk"]
    wait_until(lambda: left_locked(daemon, disks) == [], "the locks end with the process")


@pytest.mark.parametrize("scene", ["closed_in_a_child", "closed_in_a_child_by_trio"])
def test_a_child_that_leaves_the_block_takes_no_lock_from_its_parent(
    daemon: PrivateDaemon, disks: list[Path], scene: str
) -> None:
    """fork(2) has copied the connection, and the child ends by an exception, as sys.exit raises one."""
    with closing(scene, daemon, disks):
        assert left_locked(daemon, disks) == ["disk"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
def test_a_child_with_the_pid_of_its_parent_takes_no_lock_from_it(
    daemon: PrivateDaemon, disks: list[Path]
) -> None:
    """Both are the first process of a container."""
    with closing("closed_in_a_child_with_the_same_pid", daemon, disks, IN_CONTAINER):
        assert left_locked(daemon, disks) == ["disk"]
