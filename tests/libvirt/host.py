"""A host for an unmodified libvirtd and QEMU: a mount namespace and a network namespace on this machine.

It runs the programs of the machine, but has its own /run, its own configuration of libvirt, and its own
directories for everything that libvirt writes. So many hosts, and the machine's libvirt, can run at the same
time, and a host leaves nothing behind.
"""

import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.waiting import end_process, wait_until

# The program for each name of a lock daemon in a test's parameters.
DAEMONS = {
    "virtlockd": Path("/usr/sbin/virtlockd"),
    "lockd": Path(sys.prefix, "bin", "virtlockd"),
}

_INSTALLED_DAEMON = Path("/usr/sbin/virtlockd")
_PROGRAMS = ("libvirtd", "virtlockd", "virsh", "qemu-system-x86_64", "unshare", "nsenter", "setpriv")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("unshare", "--mount", "--net")

# The host's own directories, and the paths at which its programs see them.
_BINDS = {
    "run": "/run",
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}

# QEMU runs as root, and without control groups, systemd-logind and virtlogd, because the host has none of
# them.
_SYSTEM_QEMU_CONF = """\
user = "root"
group = "root"
cgroup_controllers = [ ]
namespaces = [ ]
remember_owner = 0
"""
_QEMU_CONF = """\
lock_manager = "lockd"
security_driver = "none"
stdio_handler = "file"
"""


def missing() -> str | None:
    """Return why this machine cannot run such a host, or None if it can."""
    if os.geteuid() != 0:
        return "a host for libvirtd needs root"
    absent = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if absent:
        return f"a host for libvirtd needs {', '.join(absent)}"
    trial = subprocess.run([*_NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return f"a host for libvirtd needs namespaces: {trial.stderr.strip()}" if trial.returncode else None


class Host:
    """A host with libvirtd and a lock daemon, neither started yet.

    It is a context manager, which at its end kills every process that still runs on the host.

    `directory` is new and empty, and its path is short, because UNIX sockets are made below it. `user` is the
    account whose session libvirt (qemu:///session) runs; None means the system's libvirt, run by root. With
    `lease_files`, libvirt locks a lease file for each disk in `lockspace` (file_lockspace_dir), instead of
    the disk image.

    `sockets` is the directory in which libvirt looks for the lock daemon's socket; a test may listen there
    itself.
    """

    def __init__(self, directory: Path, *, user: str | None = None, lease_files: bool = False) -> None:
        self.directory = directory
        self.lockspace = directory / "leases" if lease_files else None
        self._account = pwd.getpwnam(user) if user else None
        self._identity: tuple[str, ...] = ()
        self._replaced = False
        self.environment = {"PATH": _PATH, "LANG": "C"}
        if self._account:
            self.uri = "qemu:///session"
            user_id, group_id = self._account.pw_uid, self._account.pw_gid
            self._identity = ("setpriv", f"--reuid={user_id}", f"--regid={group_id}", "--clear-groups", "--")
            home = directory / "home"
            self.configuration = home / "config" / "libvirt"
            self.sockets = home / "run" / "libvirt"
            self._pid_files = self.sockets
            self._guest_pid_files = self.sockets / "qemu" / "run"
            self._own_directories = [home, home / "run", home / "config", home / "cache", self.configuration]
            self.environment |= {
                "HOME": str(home),
                "XDG_RUNTIME_DIR": str(home / "run"),
                "XDG_CONFIG_HOME": str(home / "config"),
                "XDG_CACHE_HOME": str(home / "cache"),
            }
        else:
            self.uri = "qemu:///system"
            self.configuration = directory / "etc"
            self.sockets = directory / "run" / "libvirt"
            self._pid_files = directory / "run"
            self._guest_pid_files = self.sockets / "qemu"
            self._own_directories = []

    def __enter__(self) -> Self:
        directory = self.directory
        directory.chmod(0o755)
        self.images = directory / "images"
        for name in [*_BINDS, "images"]:
            (directory / name).mkdir()
        self._give_to_user(directory)
        for path in [*self._own_directories, self.images]:
            path.mkdir(mode=0o700, exist_ok=True)
            self._give_to_user(path)
        self._write_configuration()
        # The namespaces live as long as this process; it ends when the pipe to its standard input is closed.
        self._keeper = subprocess.Popen(
            [*_NAMESPACES, "sh", "-c", "echo made; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"made\n"
        self._namespace = os.stat(f"/proc/{self._keeper.pid}/ns/mnt")
        for name, target in _BINDS.items():
            self.run_as_root("mount", "--bind", str(directory / name), target)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A process may fork while the list is read: read it again until it is empty.
        while processes := self.processes():
            for pid in processes:
                try:
                    end_process(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self._keeper.wait()
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.stdout.close()

    def processes(self) -> list[int]:
        """Return the pids of all processes of this host, daemons and guests."""
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._is_ours(entry)]

    def _is_ours(self, process: Path) -> bool:
        try:
            return os.path.samestat(os.stat(process / "ns" / "mnt"), self._namespace)
        except OSError:  # It has ended in the meantime, or is a kernel thread.
            return False

    # Programs.

    def run_as_root(
        self, *command: str, environment: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on this host until it ends; if `check` is true, it has to succeed."""
        done = subprocess.run(
            ["nsenter", "--target", str(self._keeper.pid), "--mount", "--net", "--", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=dict(environment) if environment is not None else None,
            check=False,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program as the user of this host's libvirt."""
        return self.run_as_root(*self._identity, *command, environment=self.environment, check=check)

    def virsh(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command of virsh with this host's libvirtd."""
        return self.run("virsh", "--quiet", "--connect", self.uri, *arguments, check=check)

    # Daemons.

    def install(self, daemon: str) -> None:
        """Install a lock daemon (a key of DAEMONS) in place of the distribution's virtlockd.

        A running daemon goes on. A daemon that starts or replaces itself from now on is the new one.
        """
        program = DAEMONS[daemon]
        assert program.exists(), f"{program} is not there: make venv"
        if self._replaced:
            self.run_as_root("umount", "--lazy", str(_INSTALLED_DAEMON))
        self._replaced = program != _INSTALLED_DAEMON
        if self._replaced:
            self.run_as_root("mount", "--bind", str(program), str(_INSTALLED_DAEMON))
            self._open_the_way_to(Path(sys.prefix).parent)

    def _open_the_way_to(self, checkout: Path) -> None:
        """Let every user of this host reach the checkout, even if it is below a directory closed to them."""
        closed = [parent for parent in reversed(checkout.parents) if not parent.stat().st_mode & stat.S_IXOTH]
        if closed:
            kept = self.directory / "checkout"
            kept.mkdir()
            self.run_as_root("mount", "--bind", str(checkout), str(kept))
            self.run_as_root("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed[0]))
            self.run_as_root("mkdir", "--parents", str(checkout))
            self.run_as_root("mount", "--move", str(kept), str(checkout))

    def start_lock_daemon(self, *options: str) -> int:
        """Start the installed lock daemon with the given options; return its pid once it serves."""
        self._start(str(_INSTALLED_DAEMON), "--daemon", *options)
        return self.lock_daemon_pid

    def start_libvirtd(self) -> int:
        """Start libvirtd; return its pid once it serves."""
        self._start("libvirtd", "--daemon")
        return self._pid_in("libvirtd.pid")

    def _start(self, *command: str) -> None:
        reaper = [sys.executable, "-I", str(Path(__file__).with_name("reaper.py"))]
        self.run_as_root(*reaper, *self._identity, *command, environment=self.environment)

    def stop_lock_daemon(self) -> None:
        end_process(self.lock_daemon_pid, signal.SIGTERM)

    def stop_libvirtd(self) -> None:
        """End libvirtd; guests go on running."""
        end_process(self._pid_in("libvirtd.pid"), signal.SIGTERM)

    @property
    def lock_daemon_pid(self) -> int:
        return self._pid_in("virtlockd.pid")

    @property
    def running_lock_daemon(self) -> str:
        """The name of the running lock daemon, a key of DAEMONS."""
        program = os.readlink(f"/proc/{self.lock_daemon_pid}/exe")
        return {str(_INSTALLED_DAEMON): "virtlockd", os.path.realpath(sys.executable): "lockd"}[program]

    def _pid_in(self, name: str) -> int:
        file = self._pid_files / name
        # virtlockd empties its pid file before it writes it, also when it replaces itself.
        wait_until(lambda: file.read_text() != "", f"a pid is in {file}")
        return int(file.read_text())

    def guest_pid(self, name: str) -> int:
        """Return the pid of a guest's QEMU."""
        return int((self._guest_pid_files / f"{name}.pid").read_text())

    # Files.

    def make_image(self, name: str) -> Path:
        """Create a disk image of 1 MiB that belongs to the user."""
        path = self.images / name
        with path.open("xb") as image:
            image.truncate(1 << 20)
        self._give_to_user(path)
        return path

    def lease(self, image: Path) -> Path:
        """Return the file whose byte 0 is locked for a disk image: the image itself, or its lease file."""
        if self.lockspace is None:
            return image
        return self.lockspace / hashlib.sha256(os.fsencode(image)).hexdigest()

    def resource(self, image: Path) -> str:
        """Return the name of a disk image's resource, as in the lock daemon's messages."""
        return str(image) if self.lockspace is None else self.lease(image).name

    def logs(self) -> str:
        """Return the logs of libvirtd and the lock daemon."""
        return "".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(self.directory.glob("*.log")))

    def lock_daemon_log(self) -> str:
        """Return the log of the lock daemon."""
        return (self.directory / "virtlockd.log").read_text()

    def _write_configuration(self) -> None:
        def write(name: str, text: str) -> None:
            path = self.configuration / name
            path.write_text(text)
            self._give_to_user(path)

        for daemon in ("libvirtd", "virtlockd"):
            log = self.directory / f"{daemon}.log"
            log.touch()
            self._give_to_user(log)
            write(f"{daemon}.conf", f'log_outputs = "2:file:{log}"\n')
        write("qemu.conf", _QEMU_CONF if self._account else _QEMU_CONF + _SYSTEM_QEMU_CONF)
        write("qemu-lockd.conf", f'file_lockspace_dir = "{self.lockspace}"\n' if self.lockspace else "")

    def _give_to_user(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)
