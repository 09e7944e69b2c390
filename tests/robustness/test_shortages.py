"""What has run out is logged once, with what to do about it, and costs nobody a lock or a connection."""

import errno
import itertools
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lockd.wire import keepalive
from lockd.wire.lock import Procedure, encode_resource
from tests.faults.tracer import Fault, can_trace, injected
from tests.forbid import forbidding
from tests.handover.program import PING
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.raw_client import RawClient
from tests.robustness.observed import descriptors
from tests.waiting import wait_until

PIDS = Path("/sys/fs/cgroup/pids")
NOBODY = 65534
USER_WITHOUT_PROCESSES = 4000003


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[PrivateDaemon]:
    with private_daemon(tmp_path / "daemon") as running:
        yield running


def logged(daemon: PrivateDaemon, text: str) -> int:
    """Return how many lines of the log contain a text."""
    return sum(text in line for line in daemon.log.read_text().splitlines())


def wait_for_line(daemon: PrivateDaemon, text: str) -> None:
    wait_until(lambda: logged(daemon, text) > 0, f"the log says {text}")


def test_at_max_clients_the_log_says_once_what_to_do(tmp_path: Path) -> None:
    with (
        private_daemon(tmp_path / "daemon", settings="max_clients = 2\n") as daemon,
        RawClient(daemon),
    ):
        for _ in range(5):
            with RawClient(daemon):
                wait_for_line(daemon, "raise max_clients in virtlockd.conf and reload the daemon")
        assert logged(daemon, "virtlockd has 2 clients, as many as it may have") == 1


def test_without_descriptors_the_log_says_once_what_to_do(daemon: PrivateDaemon, disk: Path) -> None:
    """The clients that wait are served as soon as there are descriptors again."""
    with RawClient(daemon) as client, ExitStack() as stack:
        assert client.acquire(disk) is None
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (descriptors(daemon), before[1]))
        wait_for_line(daemon, "descriptors are in use; without one, no client is accepted")
        waiting = [stack.enter_context(daemon.connect()) for _ in range(3)]
        wait_for_line(daemon, "further clients cannot be served: Too many open files; raise LimitNOFILE=")
        assert client.create_lockspace("") is None
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        for connection in waiting:
            connection.sendall(PING)
            assert connection.recv(100) == keepalive.PONG
        assert logged(daemon, "LimitNOFILE=") == 2
        assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]


def test_without_a_descriptor_a_guest_is_not_taken_for_one_that_has_ended(tmp_path: Path, disk: Path) -> None:
    """Without SO_PEERPIDFD, before Linux 6.5, the start time of the process is read."""
    wrapper = forbidding(so_peerpidfd=errno.ENOPROTOOPT)
    with private_daemon(tmp_path / "daemon", wrapper=wrapper) as daemon, RawClient(daemon, None) as client:
        assert client.create_lockspace("") is None
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (_limit_with_one_free(daemon), before[1]))
        refusal = f"Unable to watch over owner {os.getpid()}: Too many open files; raise the limit"
        assert (client.register(os.getpid()) or "").startswith(refusal)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        assert client.register(os.getpid()) is None
        assert client.acquire(disk) is None
        assert client.release(disk) is None


def _limit_with_one_free(daemon: PrivateDaemon) -> int:
    """Return a limit of descriptors under which a daemon can open one more."""
    opened = {int(fd) for fd in os.listdir(f"/proc/{daemon.pid}/fd")}
    return next(fd for fd in itertools.count() if fd not in opened) + 1


@pytest.fixture
def pids_group() -> Iterator[Path]:
    """A control group of its own for the number of tasks."""
    group = PIDS / f"lockd-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"a control group for tasks needs root and the controller in its own hierarchy: {error}")
    yield group
    group.rmdir()


def test_near_the_limit_of_tasks_the_log_says_once_what_to_do(tmp_path: Path, pids_group: Path) -> None:
    enter = ("sh", "-c", f'echo $$ > {pids_group}/cgroup.procs && exec "$@"', "sh")
    with private_daemon(tmp_path / "daemon", wrapper=enter) as daemon:
        (pids_group / "pids.max").write_text("100")
        assert logged(daemon, "TasksMax=") == 0
        (pids_group / "pids.max").write_text("1")
        text = f"1 of 1 tasks are in use ({pids_group}/pids.max); without one"
        wait_for_line(daemon, text)
        wait_for_line(daemon, "raise TasksMax= of virtlockd.service")


@pytest.mark.skipif(os.geteuid() != 0, reason="acting as another user needs root")
def test_near_the_limit_of_the_tasks_of_a_user_the_log_says_once_what_to_do() -> None:
    """Root has no such limit. The daemon of another user has it, and cannot be asked by root."""
    program = (
        "import logging, resource, subprocess, sys\n"
        "from lockd.daemon.headroom import Headroom\n"
        "logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
        "others = [subprocess.Popen(['sleep', '60']) for _ in range(9)]\n"
        "headroom = Headroom()\n"
        "for limit in (100, 11):\n"
        "    resource.setrlimit(resource.RLIMIT_NPROC, (limit, 100))\n"
        "    for _ in range(25): headroom.look()\n"
        "    print('looked')\n"
        "for other in others: other.kill()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        user=USER_WITHOUT_PROCESSES,
        group=USER_WITHOUT_PROCESSES,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=True,
    )
    before, _, after = done.stdout.partition("looked\n")
    assert "RLIMIT_NPROC" not in before
    assert re.findall(r"user \d+ has .*", after) == [
        f"user {USER_WITHOUT_PROCESSES} has 10 of 11 tasks (RLIMIT_NPROC); without one, no lock on a slow file "
        "system is taken: raise LimitNPROC= of virtlockd.service (ulimit -u)"
    ]


def test_invalid_frames_do_not_fill_the_log(tmp_path: Path) -> None:
    directory = tmp_path / "daemon"
    settings = f'log_level = 2\nlog_outputs = "2:file:{directory}/log"\n'
    with private_daemon(directory, settings=settings) as daemon:
        began = time.monotonic()
        for _ in range(1500):
            with daemon.connect() as connection:
                connection.sendall(bytes(4))
                assert connection.recv(1) == b""
        seconds = time.monotonic() - began
        assert 100 <= logged(daemon, "sent a frame of 0 bytes") <= 100 * (seconds + 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
def test_connections_of_another_user_do_not_fill_the_log(daemon: PrivateDaemon) -> None:
    daemon.socket.chmod(0o666)
    program = (
        "import socket, sys\n"
        "for _ in range(3000):\n"
        "    with socket.socket(socket.AF_UNIX) as connection:\n"
        "        connection.connect(sys.argv[1])\n"
        "        connection.recv(1)\n"
    )
    began = time.monotonic()
    subprocess.run(
        [os.path.realpath(sys.executable), "-IS", "-c", program, daemon.socket.name],
        cwd=daemon.socket.parent,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        check=True,
    )
    with RawClient(daemon) as client:
        assert client.create_lockspace("") is None
    seconds = time.monotonic() - began
    assert 100 <= logged(daemon, f"user {NOBODY} (pid ") <= 100 * (seconds + 2)


@pytest.mark.parametrize("call", ["read", "write"])
def test_without_memory_a_client_is_served_later_and_the_daemon_does_not_spin(
    daemon: PrivateDaemon, tmp_path: Path, disk: Path, call: str
) -> None:
    if not can_trace():
        pytest.skip("strace is not installed, or may not trace")
    trace = tmp_path / "trace"
    with RawClient(daemon) as client:
        with injected(daemon.pid, Fault(call, None, "ENOBUFS"), trace):
            client.socket.sendall(client.frame(Procedure.ACQUIRE_RESOURCE, encode_resource("", str(disk), 0)))
            wait_until(lambda: failed_on_sockets(trace) >= 2, "the call has failed, and was made again")
        assert failed_on_sockets(trace) < 20
        assert client.reply() is None
        assert client.release(disk) is None


def failed_on_sockets(trace: Path) -> int:
    """Return how many calls on sockets have failed in a trace."""
    return sum("<socket:" in line and "(INJECTED)" in line for line in trace.read_text().splitlines())
