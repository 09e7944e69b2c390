"""A daemon starts with the log outputs of the real virtlockd with the same command line and configuration."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.differential.pair import missing
from tests.log.log_control import LogControl
from tests.private_daemon import LOCKD, VIRTLOCKD, PrivateDaemon, private_daemon
from tests.waiting import wait_until

# Makes standard input a terminal. The daemon also has the other end of that terminal.
_ON_TERMINAL = (
    sys.executable,
    "-c",
    "import os, sys; other, terminal = os.openpty(); os.dup2(terminal, 0); os.set_inheritable(other, True);"
    " os.execv(sys.argv[1], sys.argv[1:])",
)

# Starts the daemon in the background, with its own /var/log/libvirt, and stays until the test kills it.
_IN_BACKGROUND = (
    "sh",
    "-c",
    'mount -t tmpfs tmpfs /var/log/libvirt && "$@" --daemon && echo && exec sleep 600',
    "sh",
)

_VERBOSE = ("sh", "-c", 'exec "$@" --verbose', "sh")


@dataclass(frozen=True)
class Start:
    """How a daemon is started."""

    settings: str = ""
    wrapper: tuple[str, ...] = ()
    journal: bool = False

    @property
    def in_background(self) -> bool:
        return _IN_BACKGROUND[2] in self.wrapper


STARTS = {
    "plain": Start(),
    "verbose": Start(wrapper=_VERBOSE),
    "verbose though only errors are set": Start("log_level = 4\n", _VERBOSE),
    "verbose though debugging is set": Start("log_level = 1\n", _VERBOSE),
    "debugging": Start("log_level = 1\n"),
    "errors": Start("log_level = 4\n"),
    "with a journal": Start(journal=True),
    "with a journal, verbose": Start(wrapper=_VERBOSE, journal=True),
    "with a journal, debugging": Start("log_level = 1\n", journal=True),
    "with a journal, errors": Start("log_level = 4\n", journal=True),
    "on a terminal": Start(wrapper=_ON_TERMINAL),
    "on a terminal, with a journal": Start(wrapper=_ON_TERMINAL, journal=True),
    "in the background": Start(wrapper=_IN_BACKGROUND),
    "in the background, errors": Start("log_level = 4\n", _IN_BACKGROUND),
    "in the background, with a journal": Start(wrapper=_IN_BACKGROUND, journal=True),
    "in the background, from a terminal": Start(wrapper=(*_ON_TERMINAL, "/bin/sh", *_IN_BACKGROUND[1:])),
    "in the background, from a terminal, with a journal": Start(
        wrapper=(*_ON_TERMINAL, "/bin/sh", *_IN_BACKGROUND[1:]), journal=True
    ),
    "outputs": Start('log_outputs = "4:file:/run/a 2:stderr"\n'),
    "outputs and debugging": Start('log_outputs = "4:file:/run/a"\nlog_level = 1\n'),
    "outputs and a journal": Start('log_outputs = "4:file:/run/a"\n', journal=True),
    "blank outputs": Start('log_outputs = " "\n'),
    "two settings of one name": Start('log_outputs = "4:file:/run/a"\nlog_outputs = "4:file:/run/b"\n'),
    "filters": Start('log_filters = "1:locking 4:object"\n'),
    "levels in the environment": Start("log_level = 4\n", ("env", "LIBVIRT_DEBUG=2")),
    "the name of a level in the environment": Start(wrapper=("env", "LIBVIRT_DEBUG=error")),
    "outputs in the environment": Start(
        'log_outputs = "4:stderr"\n', ("env", "LIBVIRT_LOG_OUTPUTS=2:file:/run/a 3:stderr")
    ),
    "filters in the environment": Start('log_filters = "1:rpc"\n', ("env", "LIBVIRT_LOG_FILTERS=3:locking")),
}

WRONG = {
    "outputs": Start('log_outputs = "nonsense"\n'),
    "an output's level": Start('log_outputs = "7:stderr"\n'),
    "an output's file": Start('log_outputs = "1:file:/nonexistent/log"\n'),
    "filters": Start('log_filters = "nonsense"\n'),
    "a filter's level": Start('log_filters = "0:locking"\n'),
    "the level": Start("log_level = 7\n"),
    "outputs in the environment": Start(wrapper=("env", "LIBVIRT_LOG_OUTPUTS=nonsense")),
    "filters in the environment": Start(wrapper=("env", "LIBVIRT_LOG_FILTERS=nonsense")),
    "the level in the environment": Start(wrapper=("env", "LIBVIRT_DEBUG=nonsense")),
    "outputs, in the background": Start('log_outputs = "nonsense"\n', _IN_BACKGROUND),
}


_SETTING = re.compile("log_outputs|log_filters|log_level|LIBVIRT_[A-Z_]*")


@pytest.fixture(autouse=True)
def _pair_needed() -> None:
    if reason := missing():
        pytest.skip(reason)


@contextmanager
def _started(directory: Path, program: Path, start: Start) -> Iterator[PrivateDaemon]:
    directory.mkdir()
    if start.journal:
        path = directory / "run" / "systemd" / "journal" / "socket"
        path.parent.mkdir(parents=True)
        # The socket exists, but nobody listens: virtlockd would wait for a journal that does not read.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            journal.bind(str(path))
    settings = start.settings if "log_outputs" in start.settings else f'{start.settings}log_outputs = ""\n'
    with private_daemon(directory, program, wrapper=start.wrapper, settings=settings) as daemon:
        try:
            yield daemon
        finally:
            if start.in_background:
                _end(int((daemon.run_directory / "virtlockd.pid").read_text()))


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not _is_alive(pid), f"the end of {pid}")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("name", STARTS)
def test_the_log_has_the_outputs_and_filters_of_virtlockd(tmp_path: Path, name: str) -> None:
    said = []
    for program in (LOCKD, VIRTLOCKD):
        with _started(tmp_path / program.parent.name, program, STARTS[name]) as daemon:
            log = LogControl(daemon)
            said.append((log.outputs, log.filters))
    ours, theirs = said
    assert ours == theirs


@pytest.mark.parametrize("name", WRONG)
def test_a_daemon_does_not_start_with_settings_that_are_wrong_and_says_which(
    tmp_path: Path, name: str
) -> None:
    start = WRONG[name]
    for program in (LOCKD, VIRTLOCKD):
        directory = tmp_path / program.parent.name
        (directory / "run").mkdir(parents=True)
        (directory / "conf").write_text(start.settings)
        command = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" /run && shift && exec "$@"', "sh"]
        done = subprocess.run(
            [
                *command,
                str(directory / "run"),
                *start.wrapper,
                str(program),
                "--config",
                str(directory / "conf"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1, program
        if program == LOCKD:
            (line,) = done.stderr.splitlines()
            assert line.startswith("virtlockd: ")
            assert _SETTING.findall(line) == _SETTING.findall(f"{start.settings}{start.wrapper}")
