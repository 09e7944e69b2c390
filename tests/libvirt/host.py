"""A host for an unmodified libvirtd and QEMU, in a mount and a network namespace of its own.

Programs are the machine's; /run, libvirt's configuration and all that libvirt writes are the host's own. So
any number of hosts run beside each other, and beside the machine's own libvirt, and none leaves a trace.
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

# What the name of a lock daemon in a test's parameters stands for.
DAEMONS = {
    "virtlockd": Path("/usr/sbin/virtlockd"),
    "lockd": Path(sys.prefix, "bin", "virtlockd"),
}

_INSTALLED_DAEMON = Path("/usr/sbin/virtlockd")
_PROGRAMS = ("libvirtd", "virtlockd", "virsh", "qemu-system-x86_64", "unshare", "nsenter", "setpriv")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("unshare", "--mount", "--net")

# The host's own directories, and where its programs see them.
_BINDS = {
    "run": "/run",
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}

# QEMU runs as root, without control groups, logins or a daemon for its output, none of which is there.
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
    """Why no host can be made on this machine, or None where it can."""
    if os.geteuid() != 0:
        return "a host for libvirtd needs root"
    absent = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if absent:
        return f"a host for libvirtd needs {', '.join(absent)}"
    trial = subprocess.run([*_NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return f"a host for libvirtd needs namespaces: {trial.stderr.strip()}" if trial.returncode else None


class Host:
    """A host with libvirtd and a lock daemon, neither started yet.

    Use it as a context manager: at the end every process that still runs in it is killed.

    Parameters: directory, new and empty, of a short path (UNIX sockets are made below it); user, the name of
    the account whose own libvirt (qemu:///session) runs, or None for the system's, run by root; lease_files,
    whether libvirt locks a lease file per disk in `lockspace` (file_lockspace_dir), not the disk image.

    `sockets` is where libvirt looks for the lock daemon: a test may also listen there itself.
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
        # The namespaces live as long as this process, which lives no longer than its end of the pipe.
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
        # A process may fork while the list is read: read it until nobody is left.
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
        """The pids of all processes of this host, daemons and guests."""
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._is_ours(entry)]

    def _is_ours(self, process: Path) -> bool:
        try:
            return os.path.samestat(os.stat(process / "ns" / "mnt"), self._namespace)
        except OSError:  # It ended meanwhile, or is a kernel thread.
            return False

    # Programs.

    def run_as_root(
        self, *command: str, environment: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on this host until it ends; where check is true, it must succeed."""
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
        """Run a program as the user whose libvirt this is."""
        return self.run_as_root(*self._identity, *command, environment=self.environment, check=check)

    def virsh(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one virsh command on this host's libvirtd."""
        return self.run("virsh", "--quiet", "--connect", self.uri, *arguments, check=check)

    # Daemons.

    def install(self, daemon: str) -> None:
        """Put the lock daemon of that name (a key of DAEMONS) in the place of the distribution's virtlockd.

        What runs goes on; what starts from now on, or replaces itself, is the new one.
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
        """Let every user of this host reach the checkout, though it may lie below a closed directory."""
        closed = [parent for parent in reversed(checkout.parents) if not parent.stat().st_mode & stat.S_IXOTH]
        if closed:
            kept = self.directory / "checkout"
            kept.mkdir()
            self.run_as_root("mount", "--bind", str(checkout), str(kept))
            self.run_as_root("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed[0]))
            self.run_as_root("mkdir", "--parents", str(checkout))
            self.run_as_root("mount", "--move", str(kept), str(checkout))

    def start_lock_daemon(self, *options: str) -> int:
        """Start the installed lock daemon with these options; return its pid once it serves."""
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
        """End libvirtd; guests go on."""
        end_process(self._pid_in("libvirtd.pid"), signal.SIGTERM)

    @property
    def lock_daemon_pid(self) -> int:
        return self._pid_in("virtlockd.pid")

    @property
    def running_lock_daemon(self) -> str:
        """The name, as in DAEMONS, of the lock daemon that runs now."""
        program = os.readlink(f"/proc/{self.lock_daemon_pid}/exe")
        return {str(_INSTALLED_DAEMON): "virtlockd", os.path.realpath(sys.executable): "lockd"}[program]

    def _pid_in(self, name: str) -> int:
        file = self._pid_files / name
        # virtlockd empties its file before it writes it, at a hand-over too.
        wait_until(lambda: file.read_text() != "", f"a pid is in {file}")
        return int(file.read_text())

    def guest_pid(self, name: str) -> int:
        """The pid of the QEMU of the guest of that name."""
        return int((self._guest_pid_files / f"{name}.pid").read_text())

    # Files.

    def make_image(self, name: str) -> Path:
        """A new disk image of 1 MiB, the user's own."""
        path = self.images / name
        with path.open("xb") as image:
            image.truncate(1 << 20)
        self._give_to_user(path)
        return path

    def lease(self, image: Path) -> Path:
        """The file whose byte 0 is locked for a disk image: itself, or the lease file named by its path."""
        if self.lockspace is None:
            return image
        return self.lockspace / hashlib.sha256(os.fsencode(image)).hexdigest()

    def resource(self, image: Path) -> str:
        """The name of a disk image's resource, as the lock daemon's messages give it."""
        return str(image) if self.lockspace is None else self.lease(image).name

    def logs(self) -> str:
        """What libvirtd and the lock daemon logged."""
        return "".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(self.directory.glob("*.log")))

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
