"""A Debian machine with a real systemd, booted in systemd-nspawn."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.systemd.tree import overlay
from tests.waiting import wait_until

_PROJECT = Path(__file__).parents[2]
_HOLDER = Path(__file__).with_name("holder.py")
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
# Units that slow the boot down and are not needed.
_MASKED = ("e2scrub_reap.service", "console-getty.service", "systemd-networkd.service", "libvirtd.service")

LOCK_SOCKET = "/run/libvirt/virtlockd-sock"


@dataclass
class Holder:
    """A process on the machine that holds a lock. `pid` is its pid on that machine."""

    process: subprocess.Popen[str]
    pid: int

    def ask(self, command: str) -> str:
        """Send "acquire", "release" or "leave"; return "held", "released", "left" or an error message."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")


_READINGS = 4
"""How often /proc/locks is read."""


class DoesNotBootError(Exception):
    """A machine does not boot. The message is the output of its console."""


class Machine:
    """A machine that boots from an overlay, so that the layers below are not changed.

    It is a context manager: the machine is booted when it is entered, and removed when it is left. `layers`
    are the directories that make up its root directory, the uppermost first.
    """

    def __init__(self, layers: Sequence[Path]) -> None:
        self._layers = layers
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="lockd-machine-")))
            root = self._stack.enter_context(overlay(self._layers, directory))
            shutil.copy(_HOLDER, root / "opt/holder.py")
            for unit in _MASKED:
                (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
            self._leader = self._boot(directory, root)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _boot(self, directory: Path, root: Path) -> int:
        """Boot; when systemd has started all units, return the pid of that systemd on this machine."""
        notifications = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        notifications.bind(str(directory / "notify"))
        console = self._stack.enter_context((directory / "console").open("w+b"))
        nspawn = subprocess.Popen(
            [
                "systemd-nspawn",
                "--quiet",
                "--boot",
                "--register=no",
                "--keep-unit",
                "--private-network",
                # Like a real host: with control groups version 2, a unit's device policy is a BPF program.
                "--system-call-filter=bpf",
                "--notify-ready=yes",
                "--console=pipe",
                "--link-journal=no",
                "--resolv-conf=off",
                "--timezone=off",
                f"--machine=lockd-{os.getpid()}-{os.urandom(4).hex()}",
                f"--directory={root}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT
            | {"NOTIFY_SOCKET": str(directory / "notify"), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        self._stack.callback(self._power_off, nspawn)
        ended = os.pidfd_open(nspawn.pid)
        self._stack.callback(os.close, ended)
        leader = 0
        while notifications.fileno() in select.select([notifications.fileno(), ended], [], [], 120)[0]:
            for line in notifications.recv(4096).decode().splitlines():
                key, _, value = line.partition("=")
                if key == "X_NSPAWN_LEADER_PID":
                    leader = int(value)
                if key == "READY":
                    assert leader, "systemd-nspawn did not report the pid of its systemd"
                    return leader
        console.seek(0)
        raise DoesNotBootError(console.read().decode())

    @staticmethod
    def _power_off(nspawn: subprocess.Popen[bytes]) -> None:
        nspawn.send_signal(signal.SIGTERM)
        try:
            nspawn.wait(timeout=60)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()

    @property
    def root(self) -> Path:
        """The path at which this machine sees the root directory of the booted machine, mounts included."""
        return Path(f"/proc/{self._leader}/root")

    # Programs.

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._leader}", "--all", "--", *command]

    def run(self, *command: str, check: bool = True) -> str:
        """Run a program on the machine as root; return its output and errors.

        If `check`, it has to succeed.
        """
        done = subprocess.run(
            self._inside(*command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            env=_ENVIRONMENT,
            check=False,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}"
        return done.stdout

    def run_in_login_session(self, user: str, script: str) -> str:
        """Run a shell script in a user's login session, set up by PAM and systemd-logind."""
        return self.run(
            "systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec",
            "--property=PAMName=login", f"--property=User={user}",
            "bash", "--login", "-ec", script,
        )  # fmt: skip

    @contextmanager
    def holder(self, name: str, resource: str, *, prefix: tuple[str, ...] = ()) -> Iterator[Holder]:
        """Run a registered guest until the end of the context; it does not hold a lock yet."""
        identifier = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        process = subprocess.Popen(
            self._inside(*prefix, "python3", "/opt/holder.py", LOCK_SOCKET, name, identifier, resource),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_ENVIRONMENT,
        )
        with process:
            holder = Holder(process, 0)
            holder.pid = int(holder.answer())
            assert holder.answer() == "registered"
            yield holder

    def reload(self) -> None:
        """Have the running lock daemon replace its program, and wait until the new program serves."""
        # The auxiliary vector contains random addresses, which change with each exec.
        addresses = self.root / "proc" / str(self.main_pid) / "auxv"
        before = addresses.read_bytes()
        self.run("systemctl", "reload", "virtlockd.service")
        self.wait_for(
            lambda: addresses.read_bytes() not in (b"", before), "a new program in the same process"
        )
        self.wait_for(lambda: self.unit_property("ActiveState") == "active", "the end of the reload")

    def override(self, text: str) -> None:
        """Change settings of the [Service] section of the lock daemon's unit, as systemctl edit does."""
        drop_in = self.root / "run/systemd/system/virtlockd.service.d/override.conf"
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text(f"[Service]\n{text}\n")
        self.run("systemctl", "daemon-reload")

    # State of systemd and the kernel.

    def unit_property(self, name: str, unit: str = "virtlockd.service") -> str:
        """Return a property of a unit, as systemctl shows it."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    @property
    def main_pid(self) -> int:
        """The pid of the lock daemon, 0 if none runs."""
        return int(self.unit_property("MainPID"))

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Return the journal's entries that match, oldest first."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "--quiet", "--output=json", "--all", *matches).splitlines()
        return [json.loads(line) for line in lines]

    def lock_holders(self, path: str) -> list[int]:
        """Return the pids of the processes that hold a POSIX lock on a file, from the kernel.

        /proc/locks is no snapshot: while other processes lock and unlock, a reading may show a lock twice, or
        miss it. Therefore the file is read several times.
        """
        return sorted(set().union(*(self._read_lock_holders(path) for _ in range(_READINGS))))

    def _read_lock_holders(self, path: str) -> set[int]:
        lines = self.run("lslocks", "--noheadings", "--raw", "--output=PID,TYPE,PATH").splitlines()
        # A lock whose file lslocks does not find has no third field.
        fields = [line.split(maxsplit=2) for line in lines]
        return {int(pid) for pid, kind, *where in fields if (kind, where) == ("POSIX", [path])}

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until a condition is true; after 15 s raise AssertionError with the daemon's log."""
        try:
            wait_until(condition, what)
        except AssertionError as error:
            log = self.run("journalctl", "--unit=virtlockd.service", "--lines=50")
            raise AssertionError(f"{error}\n{log}") from None

    def make_image(self, name: str) -> str:
        """Create an empty file on the machine and return its path."""
        path = f"/run/{name}"
        self.run("touch", path)
        return path


def make_install(root: Path, *arguments: str) -> None:
    """Run make install for the machine with the given root directory, booted or not."""
    make("install", f"DESTDIR={root}", *arguments)


def make(*arguments: str) -> None:
    """Run make in the project's directory."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", *arguments],
        cwd=_PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def without_libvirt(root: Path) -> None:
    """Remove libvirt's daemons from a system that is not booted."""
    packages = ("libvirt-daemon-system", "libvirt-daemon-system-systemd", "libvirt-daemon")
    subprocess.run(["chroot", str(root), "dpkg", "--purge", *packages], capture_output=True, check=True)
