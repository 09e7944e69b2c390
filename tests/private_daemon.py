"""Start a lock daemon, lockd or virtlockd, that shares nothing with the daemon of the machine."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lockd.wire import keepalive
from lockd.wire.frames import FrameType, encode
from tests.waiting import wait_until

LOCKD = Path(sys.prefix, "bin", "virtlockd")
VIRTLOCKD = Path("/usr/sbin/virtlockd")

# Both daemons have fixed paths below /run. A daemon that root starts gets a /run of its own.
_IN_PRIVATE_RUN = ("unshare", "--mount", "sh", "-c", 'mount --bind "$1" /run && shift && exec "$@"', "sh")


def in_private_run(directory: Path, command: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return a command and an environment that run the given command with the directory as its /run."""
    if os.geteuid() == 0:
        return [*_IN_PRIVATE_RUN, str(directory), *command], dict(os.environ)
    return command, {**os.environ, "XDG_RUNTIME_DIR": str(directory)}


_PING = encode(keepalive.PROGRAM, keepalive.VERSION, keepalive.Procedure.PING, FrameType.MESSAGE, serial=0)


class PrivateDaemon:
    """A daemon with its sockets, pid file, configuration and log below a directory.

    If root runs it, it sees the subdirectory "run" as its /run.
    """

    def __init__(
        self, directory: Path, program: Path, wrapper: Sequence[str] = (), settings: str = ""
    ) -> None:
        self.directory = directory
        self.program = program
        self.run_directory = directory / "run"
        self.socket = self.run_directory / "libvirt" / "virtlockd-sock"
        self.admin_socket = self.run_directory / "libvirt" / "virtlockd-admin-sock"
        self.log = directory / "log"
        configuration = directory / "virtlockd.conf"
        self.run_directory.mkdir(mode=0o700, exist_ok=True)
        # If a setting is there twice, the first one counts.
        configuration.write_text(f'{settings}log_level = 3\nlog_outputs = "3:file:{self.log}"\n')
        self.process = self._start([*wrapper, str(program), "--config", str(configuration)])
        self.pid = self.process.pid

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        command, environment = in_private_run(self.run_directory, command)
        self._output = self.directory / "output"
        with self._output.open("ab") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )

    def serves(self) -> bool:
        """Return whether the daemon answers a ping; raise AssertionError if it has ended.

        To connect is not enough: a daemon that listens, but does not answer yet, may not handle signals yet.
        """
        assert self.process.poll() is None, self.output()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(15)
            if connection.connect_ex(str(self.socket)) != 0:
                return False
            connection.sendall(_PING)
            return connection.recv(1) != b""

    def output(self) -> str:
        """Return what the daemon has written to its standard output and error."""
        return self._output.read_text(errors="replace")

    def connect(self) -> socket.socket:
        """Open a connection to the lock socket."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(15)
            connection.connect(str(self.socket))
        except BaseException:
            connection.close()
            raise
        return connection

    def run_inside(self, *command: str) -> None:
        """Run a program in the mount namespace of the daemon; it has to succeed. Needs root."""
        subprocess.run(
            ["nsenter", "--target", str(self.pid), "--mount", "--", *command], check=True, timeout=60
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """Send SIGSTOP, and wait until the daemon is stopped."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def running_image(self) -> bytes:
        """Return bytes that change with every exec of the process: its auxiliary vector, with AT_RANDOM."""
        return Path(f"/proc/{self.pid}/auxv").read_bytes()


@contextmanager
def private_daemon(
    directory: Path, program: Path = LOCKD, *, wrapper: Sequence[str] = (), settings: str = ""
) -> Iterator[PrivateDaemon]:
    """Run a private daemon below `directory`, until the end of the context at the latest.

    `directory` is created if it is missing. A second daemon in the same directory is the successor of the
    first. `wrapper` is put before the daemon's command; `settings` are more lines for its configuration file.
    """
    directory.mkdir(exist_ok=True)
    daemon = PrivateDaemon(directory, program, wrapper, settings)
    try:
        wait_until(daemon.serves, f"{program} serves")
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.wait()
