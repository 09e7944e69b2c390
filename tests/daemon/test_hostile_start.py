"""Whatever a daemon finds at its start, it serves, or says in one line why it does not."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.daemon.conftest import Virtlockd
from tests.daemon.test_command_line import the_line
from tests.faults.tracer import can_trace
from tests.private_daemon import LOCKD, in_private_run, private_daemon
from tests.raw_client import AUTOCREATE, RawClient
from tests.waiting import end_process

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as other users")

OTHER_USER = 4_000_001

# Runs a command as a user who is not in the user database.
_AS_OTHER_USER = (
    sys.executable,
    "-c",
    f"import os, sys; os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER});"
    " os.execv(sys.argv[1], sys.argv[1:])",
)


def run(command: Sequence[str | Path], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment,
        cwd="/",
    )


# The pid file


def test_a_pid_file_that_is_a_link_is_not_followed(virtlockd: Virtlockd, tmp_path: Path) -> None:
    precious, pid_file = tmp_path / "precious", tmp_path / "pid"
    precious.write_text("precious")
    pid_file.symlink_to(precious)
    assert the_line(virtlockd("--pid-file", pid_file)).startswith(f"{pid_file}: is a symbolic link; ")
    pid_file.unlink()
    pid_file.symlink_to(tmp_path / "missing")
    assert the_line(virtlockd("--pid-file", pid_file)).startswith(f"{pid_file}: is a symbolic link; ")
    assert precious.read_text() == "precious"
    assert not (tmp_path / "missing").exists()


def test_a_pid_file_with_a_second_name_is_not_overwritten(virtlockd: Virtlockd, tmp_path: Path) -> None:
    precious, pid_file = tmp_path / "precious", tmp_path / "pid"
    precious.write_text("precious")
    pid_file.hardlink_to(precious)
    assert the_line(virtlockd("--pid-file", pid_file)).startswith(f"{pid_file}: has another name too")
    assert precious.read_text() == "precious"


@root_only
def test_a_pid_file_of_another_user_is_not_overwritten(virtlockd: Virtlockd, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text("precious")
    os.chown(pid_file, OTHER_USER, OTHER_USER)
    assert the_line(virtlockd("--pid-file", pid_file)).startswith(
        f"{pid_file}: belongs to user {OTHER_USER}; "
    )
    assert pid_file.read_text() == "precious"


def test_a_pid_file_is_an_ordinary_file(virtlockd: Virtlockd, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null")):
        assert the_line(virtlockd("--pid-file", path)).startswith(f"{path}: is no ordinary file; ")


# Directories


@pytest.fixture
def user_directory(tmp_path: Path) -> Path:
    """A directory of another user, whose parents everybody can enter."""
    directory = tmp_path / "runtime"
    directory.mkdir(mode=0o700)
    for parent in directory.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o111)
    os.chown(directory, OTHER_USER, OTHER_USER)
    return directory


def start_as_other_user(
    *options: str | Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    inherited.pop("HOME", None)
    return run([*_AS_OTHER_USER, LOCKD, *options], {**inherited, **environment})


def _of_another_user(directory: Path) -> None:
    directory.chmod(0o777)
    os.chown(directory, OTHER_USER + 1, OTHER_USER)


def _writable_by_others(directory: Path) -> None:
    directory.chmod(0o777)


def _writable_by_a_strange_group(directory: Path) -> None:
    os.chown(directory, OTHER_USER, 0)
    directory.chmod(0o770)


@root_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_of_another_user, f"belongs to user {OTHER_USER + 1}, and not to user {OTHER_USER}"),
        (_writable_by_others, "other users can write to it"),
        (_writable_by_a_strange_group, "other users can write to it"),
    ],
)
@pytest.mark.parametrize("below", [".", "libvirt"])
def test_a_runtime_directory_that_others_can_write_to_is_not_used(
    user_directory: Path, change: Callable[[Path], None], message: str, below: str
) -> None:
    directory = user_directory / below
    directory.mkdir(exist_ok=True)
    os.chown(directory, OTHER_USER, OTHER_USER)
    change(directory)
    line = the_line(start_as_other_user(environment={"XDG_RUNTIME_DIR": str(user_directory), "HOME": "/"}))
    assert line.startswith(f"{directory}: {message}")
    assert not [path for path in user_directory.rglob("*") if not path.is_dir()]


@root_only
def test_a_relative_runtime_directory_is_ignored(user_directory: Path) -> None:
    pid_file = user_directory / ".cache" / "libvirt" / "virtlockd.pid"
    started = start_as_other_user(
        "--daemon", environment={"XDG_RUNTIME_DIR": "tmp", "HOME": str(user_directory)}
    )
    assert (started.returncode, started.stderr) == (0, "")
    end_process(int(pid_file.read_text()), signal.SIGTERM)


@root_only
def test_a_user_without_a_home_directory_is_told_so() -> None:
    line = the_line(start_as_other_user(environment={}))
    assert line.startswith(f"user {OTHER_USER} has no home directory; set HOME or XDG_RUNTIME_DIR")


def test_directories_are_not_open_to_everybody_whatever_the_umask_is(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    pid_file = tmp_path / "a" / "b" / "pid"
    conf = tmp_path / "conf"
    conf.touch()
    command, environment = in_private_run(
        tmp_path / "run", [str(LOCKD), "--daemon", "--config", str(conf), "--pid-file", str(pid_file)]
    )
    started = run(["sh", "-c", 'umask 0 && exec "$@"', "sh", *command], environment)
    assert (started.returncode, started.stderr) == (0, "")
    try:
        for directory in (pid_file.parent, pid_file.parent.parent, tmp_path / "run" / "libvirt"):
            assert not directory.stat().st_mode & 0o022
        assert not pid_file.stat().st_mode & 0o022
    finally:
        end_process(int(pid_file.read_text()), signal.SIGTERM)


# The standard streams

_CLOSED = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")


def test_closed_standard_streams_are_replaced(tmp_path: Path) -> None:
    """The pid file got the number of standard error, and lines of the log were written over the pid."""
    with (
        private_daemon(tmp_path / "daemon", wrapper=_CLOSED, settings='log_outputs = "3:stderr"\n') as daemon,
        RawClient(daemon) as client,
    ):
        assert client.acquire(f"{tmp_path}/missing") is not None
        assert {os.readlink(f"/proc/{daemon.pid}/fd/{stream}") for stream in (0, 1, 2)} == {"/dev/null"}
        (pid_file,) = daemon.run_directory.rglob("virtlockd.pid")
        assert pid_file.read_text() == f"{daemon.pid}\n"


def test_the_background_works_with_closed_standard_streams(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "conf").touch()
    pid_file = tmp_path / "pid"
    command, environment = in_private_run(
        tmp_path / "run",
        [*_CLOSED, str(LOCKD), "--daemon", "--config", str(tmp_path / "conf"), "--pid-file", str(pid_file)],
    )
    assert run(command, environment).returncode == 0
    end_process(int(pid_file.read_text()), signal.SIGTERM)


def test_the_caller_is_told_that_the_background_process_was_killed(
    virtlockd: Virtlockd, tmp_path: Path, run_directory: Path
) -> None:
    """The kernel may kill it, for example, because there is no memory."""
    program = tmp_path / "program"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, signal\n"
        "from lockd.daemon.start import pidfile\n"
        "pidfile.acquire = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from lockd.daemon.command import main\n"
        "main()\n"
    )
    program.chmod(0o755)
    command, environment = in_private_run(run_directory, [str(program), "--daemon", "--config", "/dev/null"])
    line = the_line(run(command, environment))
    assert line == "the daemon ended before it served clients; its log may tell why"


REFUSED = {
    "epoll_create1:error=EMFILE:when=2": "the daemon cannot run: Too many open files",
    "eventfd2:error=ENFILE": "the daemon cannot run: Too many open files in system",
    "bind:error=EROFS": "/run/libvirt/virtlockd-sock: cannot listen: Read-only file system",
    "listen:error=EADDRINUSE:when=2": "/run/libvirt/virtlockd-admin-sock: cannot listen: Address already in use",
    "ftruncate:error=EIO": "/run/virtlockd.pid: cannot be written: Input/output error",
}
REFUSED_IN_BACKGROUND = {
    "setsid:error=EPERM": "the daemon cannot go into the background: Operation not permitted",
    "chdir:error=EIO": "the daemon cannot go into the background: Input/output error",
}


@pytest.mark.parametrize(
    ("options", "call", "line"),
    [
        *(([], call, line) for call, line in REFUSED.items()),
        *((["--daemon"], call, line) for call, line in {**REFUSED, **REFUSED_IN_BACKGROUND}.items()),
    ],
)
def test_what_the_system_refuses_to_a_start_is_told_in_one_line(
    run_directory: Path, tmp_path: Path, options: list[str], call: str, line: str
) -> None:
    if os.geteuid() != 0 or not can_trace():
        pytest.skip("a system call that fails needs root and strace")
    tracing = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", f"inject={call}"]
    command, environment = in_private_run(
        run_directory, [*tracing, str(LOCKD), *options, "--config", "/dev/null"]
    )
    assert the_line(run(command, environment)) == line
    assert [path for path in run_directory.rglob("*") if not path.is_dir()] == []


# The state file

HUGE = 1 << 40


def _own_state(**more: object) -> str:
    """JSON of a state that the daemon takes for its own, as the shell writes it: $$ is the pid."""
    return json.dumps({"magic": "PID", **more}).replace("PID", "'$$'")


@pytest.mark.parametrize(
    "make",
    [
        'mkfifo "$STATE"',
        'mkdir "$STATE"',
        'ln -s /dev/zero "$STATE"',
        f'truncate -s {HUGE} "$STATE"',
        'head -c 3000000 /dev/zero | tr "\\0" "[" >"$STATE"',
        'printf "\\377\\376" >"$STATE"',
        'echo "[]" >"$STATE"',
        'echo "{\\"magic\\": 1e999}" >"$STATE"',
        f"echo '{_own_state()}' >\"$STATE\"",
        f"echo '{_own_state(lockd=7)}' >\"$STATE\"",
        f"echo '{_own_state(lockd={'process': 7})}' >\"$STATE\"",
        f"echo '{_own_state(daemon={'servers': []})}' >\"$STATE\"",
        f"echo '{_own_state(daemon={'servers': {'a': {'services': [{'socks': [{'fd': 2**70}]}]}}})}' >\"$STATE\"",
        f"echo '{_own_state(daemon={'servers': {'a': {'services': [{'socks': [{'fd': 'x'}]}]}}})}' >\"$STATE\"",
        f"echo '{_own_state(daemon={'servers': {'a': {'services': [{'socks': [{'fd': -1}]}]}}})}' >\"$STATE\"",
    ],
)
def test_a_state_file_that_is_none_does_not_hinder_the_start(tmp_path: Path, make: str) -> None:
    state = "/run/virtlockd-restart-exec.json"
    if os.geteuid() != 0:
        state = str(tmp_path / "daemon" / "run" / "libvirt" / "virtlockd-restart-exec.json")
        Path(state).parent.mkdir(parents=True)
    wrapper = ("sh", "-c", f'STATE="{state}"; {make} && exec "$@"', "/bin/sh")
    with private_daemon(tmp_path / "daemon", wrapper=wrapper) as daemon, RawClient(daemon) as client:
        assert client.acquire(tmp_path / "lease", flags=AUTOCREATE) is None
        assert "Traceback" not in daemon.output()


# Other surroundings


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_a_configuration_that_is_no_file_is_refused(
    virtlockd: Virtlockd, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "virtlockd.conf"
    make(path)
    assert the_line(virtlockd("--config", path)).startswith(f"{path}: cannot be read: it is ")


def test_a_working_directory_that_was_removed_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    command, environment = in_private_run(
        tmp_path / "run", ["sh", "-c", 'mkdir "$1" && cd "$1" && rmdir "$1" && shift && exec "$@"', "sh"]
    )
    gone = tmp_path / "gone"
    result = run([*command, gone, LOCKD, "--config", "relative"], environment)
    assert result.returncode == 2
    assert "'relative': the working directory: No such file or directory" in result.stderr.splitlines()[-1]
    result = run([*command, gone, LOCKD, "--config", "/nonexistent"], environment)
    assert the_line(result).startswith("/nonexistent: No such file or directory; ")


def test_sockets_that_systemd_did_not_hand_over_are_missed_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    wrapper = ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', "sh"]
    command, environment = in_private_run(tmp_path / "run", [*wrapper, str(LOCKD), "--config", "/dev/null"])
    line = the_line(run(command, environment))
    assert re.fullmatch(
        "systemd handed over sockets that cannot be used: (Bad file|Socket operation on) .+", line
    )
