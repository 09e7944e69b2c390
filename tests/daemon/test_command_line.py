"""virtlockd's options, and errors that prevent its start: each is one line for the administrator."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from lockd import __version__
from lockd.daemon.start.options import parse_options
from lockd.libvirt.addresses import Addresses
from tests.daemon.conftest import Virtlockd
from tests.kernel_locks import locks_of
from tests.private_daemon import LOCKD, PrivateDaemon, in_private_run, private_daemon
from tests.raw_client import RawClient
from tests.waiting import end_process, wait_for_end


def the_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a failed start prints."""
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("virtlockd: ")
    return line.removeprefix("virtlockd: ")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_all_options_of_virtlockd(virtlockd: Virtlockd, option: str) -> None:
    result = virtlockd(option)
    assert (result.returncode, result.stderr) == (0, "")
    for names in ("-h, --help", "-v, --verbose", "-V, --version", "-d, --daemon"):
        assert names in result.stdout
    for names in ("-t SECS, --timeout SECS", "-f FILE, --config FILE", "-p FILE, --pid-file FILE"):
        assert names in result.stdout


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version_names_lockd_and_its_version(virtlockd: Virtlockd, option: str) -> None:
    result = virtlockd(option)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip() == f"virtlockd (lockd) {__version__}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["--time", "3"], "unrecognized arguments: --time 3"),
        (["--timeout", "soon"], "'soon' is not a number of seconds, 1 or more"),
        (["--timeout", "0"], "'0' is not a number of seconds, 1 or more"),
        (["--timeout=-1"], "'-1' is not a number of seconds, 1 or more"),
        (["--config"], "expected one argument"),
        (["argument"], "unrecognized arguments: argument"),
    ],
)
def test_wrong_options_are_named(virtlockd: Virtlockd, options: list[str], message: str) -> None:
    result = virtlockd("-f", "/dev/null", *options)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("option", ["-f", "--config"])
def test_a_named_configuration_has_to_be_there(virtlockd: Virtlockd, option: str, tmp_path: Path) -> None:
    path = tmp_path / "missing.conf"
    assert the_line(virtlockd(option, path)).startswith(f"{path}: No such file or directory; ")
    assert the_line(virtlockd(option, tmp_path)) == f"{tmp_path}: cannot be read: it is a directory"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("max_clients = 5\nmax_clients 6\n", 2, "'=' is missing after max_clients"),
        ("# a comment\n\nmax_clients = many\n", 3, "a value is a number, a text in quotes, or a list"),
        ("max_clients = -5\n", 1, "max_clients has to be a number"),
        ("\nadmin_max_clients = [ 5 ]\n", 2, "admin_max_clients has to be a number"),
        ("log_outputs = 1\n", 1, "log_outputs has to be a text"),
        ("\nlog_level = 9\n", 2, "log_level has to be a number, 0 to 4"),
    ],
)
def test_an_error_in_the_configuration_names_file_and_line(
    virtlockd: Virtlockd, tmp_path: Path, text: str, line: int, message: str
) -> None:
    path = tmp_path / "virtlockd.conf"
    path.write_text(text)
    assert the_line(virtlockd("--config", path)).startswith(f"{path}:{line}: {message}")


def test_an_unknown_key_is_no_error(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon", settings='of_a_later_version = [ "a", 1 ]\n') as daemon:
        daemon.connect().close()


def test_the_pid_file_names_the_daemon_and_is_locked_by_it(daemon: PrivateDaemon) -> None:
    pid_file = daemon.run_directory / ("virtlockd.pid" if os.geteuid() == 0 else "libvirt/virtlockd.pid")
    assert pid_file.read_text() == f"{daemon.pid}\n"
    status = pid_file.stat()
    assert locks_of(daemon.pid) == {(status.st_dev, status.st_ino): "WRITE"}


def test_a_second_daemon_refuses_to_start(daemon: PrivateDaemon, tmp_path: Path) -> None:
    options = [str(LOCKD), "--config", str(daemon.directory / "virtlockd.conf")]
    for more in ([], ["--daemon"]):
        command, environment = in_private_run(daemon.run_directory, [*options, *more])
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, env=environment
        )
        line = the_line(result)
        assert re.fullmatch(rf"/\S+/virtlockd.pid: another daemon is running \(pid {daemon.pid}\); .+", line)
    with RawClient(daemon) as client:
        assert client.acquire(tmp_path / "lease", flags=2) is None


@pytest.mark.parametrize("option", ["-p", "--pid-file"])
@pytest.mark.parametrize("background", [False, True])
def test_an_option_names_another_pid_file(
    virtlockd: Virtlockd, option: str, background: bool, tmp_path: Path, run_directory: Path
) -> None:
    """A missing directory is created. If that fails, the error names the directory."""
    pid_file = tmp_path / "new" / "directory" / "lockd.pid"
    if background:
        result = virtlockd("--daemon", option, pid_file)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        end_process(int(pid_file.read_text()), signal.SIGTERM)
        assert not pid_file.exists()
    else:
        (tmp_path / "file").touch()
        unusable = tmp_path / "file" / "lockd.pid"
        assert the_line(virtlockd(option, unusable)) == f"{unusable.parent}: cannot be made: Not a directory"
        assert the_line(virtlockd(option, tmp_path)) == f"{tmp_path}: cannot be written: Is a directory"
    assert [path for path in run_directory.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("option", ["-d", "--daemon"])
def test_in_the_background_it_serves_as_soon_as_the_caller_goes_on(
    virtlockd: Virtlockd, option: str, tmp_path: Path, run_directory: Path
) -> None:
    """It keeps none of the caller's streams open, because a reader of these would wait for their end."""
    pid_file = tmp_path / "lockd.pid"
    assert virtlockd(option, "--pid-file", pid_file).returncode == 0
    pid = int(pid_file.read_text())
    pidfd = os.pidfd_open(pid)
    try:
        daemon = PrivateDaemonAt(run_directory)
        with RawClient(daemon) as client:  # type: ignore[arg-type]
            assert client.acquire(tmp_path / "lease", flags=2) is None
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{pid}/fd/{stream}") for stream in (0, 1, 2)} == {"/dev/null"}
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for_end(pidfd, "the end of the daemon")
        os.close(pidfd)


class PrivateDaemonAt:
    """The part of PrivateDaemon that a client needs, for a daemon that was started elsewhere."""

    def __init__(self, run_directory: Path) -> None:
        self._socket = run_directory / "libvirt" / "virtlockd-sock"

    connect = PrivateDaemon.connect

    @property
    def socket(self) -> Path:
        return self._socket


@pytest.mark.parametrize("background", [[], ["--daemon"]], ids=["foreground", "background"])
@pytest.mark.parametrize("name", ["virtlockd-sock", "virtlockd-admin-sock"])
def test_if_it_cannot_listen_it_says_so_and_leaves_nothing_behind(
    virtlockd: Virtlockd, name: str, background: list[str], tmp_path: Path, run_directory: Path
) -> None:
    (run_directory / "libvirt" / name).mkdir(parents=True)
    pid_file = tmp_path / "lockd.pid"
    line = the_line(virtlockd("--pid-file", pid_file, *background))
    assert re.fullmatch(rf"/\S+/libvirt/{name}: cannot listen: Is a directory", line)
    assert not pid_file.exists()
    assert [path for path in run_directory.rglob("*") if not path.is_dir()] == []


def test_the_help_shows_the_paths_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """They may come from the environment."""
    directory = Path("/100%s\x1b[31m")
    addresses = Addresses(*(directory / name for name in ("sock", "admin", "pid", "state", "conf")))
    with pytest.raises(SystemExit):
        parse_options(["--help"], addresses)
    shown = "".join(capsys.readouterr().out.split())
    assert shown.count(r"/100%s\x1b[31m/") == 4
    assert shown.isprintable()
