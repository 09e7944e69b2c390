"""The servers to be measured, each started anew under the same conditions.

If root runs them, all daemons of libvirt's protocol use the same paths below /run. So the whole benchmark
runs in a mount namespace of its own with an empty /run, and does not disturb the machine's daemons. Another
user's daemon uses XDG_RUNTIME_DIR. Only one daemon runs at a time.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# The default, 1024, is too small for the number of guests.
CONFIGURATION = "max_clients = 10000\n"
START_LIMIT_S = 10.0

_INSIDE = "LOCKD_BENCHMARK_NAMESPACE"
_REGISTER = struct.pack(
    ">7I 16s I8s 3I", 68, 0x0EA7BEEF, 1, 1, 0, 0, 0, b"benchmark-uuid--", 5, b"bench", 1, os.getpid(), 0
)
_REGISTERED = struct.pack(">7I", 28, 0x0EA7BEEF, 1, 1, 1, 0, 0)


class NotMeasuredError(Exception):
    """A measurement was not possible. The message is one line that says why."""


@dataclass(frozen=True)
class Server:
    """A program that serves the lock protocol.

    `command` starts it; in it, `{socket}` and `{configuration}` are replaced by paths.
    """

    name: str
    command: tuple[str, ...]
    version: str


@dataclass
class Running:
    """A started server. `first_reply_ms` is the time from its start to its first reply, in milliseconds."""

    process: subprocess.Popen[bytes]
    socket: Path
    first_reply_ms: float = 0.0

    @property
    def resident_mb(self) -> float:
        """The resident memory, in units of 10^6 bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return int(fields["VmRSS"].split()[0]) * 1024 / 1e6

    def stop(self) -> None:
        """Send SIGKILL, and wait for the end.

        On SIGTERM a daemon would first fence the guests that it disconnects.
        """
        self.process.kill()
        self.process.wait()

    @property
    def held_locks(self) -> int:
        """How many locks the server holds in the kernel."""
        lines = Path("/proc/locks").read_text().splitlines()
        return sum(f" {self.process.pid} " in line for line in lines)


def enter_private_run(argv: list[str]) -> None:
    """If this is root, execute `argv` in a mount namespace with an empty /run, unless it is in one already.

    Raises NotMeasuredError if root cannot create a mount namespace on this machine.
    """
    if os.geteuid() != 0 or _INSIDE in os.environ:
        return
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        raise NotMeasuredError(
            "unshare: no mount namespace for the daemons' /run; run as another user instead"
        )
    inside = 'mount -t tmpfs -o mode=0755 tmpfs /run && exec "$@"'
    os.environ[_INSIDE] = "1"
    os.execvp("unshare", ["unshare", "--mount", "sh", "-c", inside, "sh", *argv])


def runtime_directory(scratch: Path) -> Path:
    """Return the directory of a daemon's sockets and state: /run for root, `scratch` for another user."""
    return Path("/run") if os.geteuid() == 0 else scratch


def lockd(program: Path) -> Server:
    """Describe the lockd whose console script is `program`."""
    return Server("lockd", (str(program), "--config", "{configuration}"), _version(program))


def virtlockd(program: Path) -> Server:
    """Describe libvirt's daemon at `program`.

    Raises NotMeasuredError if it is missing, or is another program.
    """
    version = _version(program)
    if "libvirt" not in version:
        raise NotMeasuredError(f"{program} is not libvirt's virtlockd: {version}")
    return Server("virtlockd", (str(program), "--config", "{configuration}"), version)


def floor(program: Path) -> Server:
    """Describe the minimal C server."""
    return Server("floor", (str(program), "{socket}"), "benchmarks/floor.c")


@contextmanager
def started(server: Server, scratch: Path) -> Iterator[Running]:
    """Run `server` until the end of the context, with its log in `scratch`.

    Raises NotMeasuredError if it does not serve.
    """
    runtime = runtime_directory(scratch)
    address = runtime / "libvirt" / "virtlockd-sock"
    shutil.rmtree(address.parent, ignore_errors=True)
    address.parent.mkdir(mode=0o700, parents=True)
    configuration = scratch / "virtlockd.conf"
    configuration.write_text(CONFIGURATION)
    command = [part.format(socket=address, configuration=configuration) for part in server.command]
    environment = _environment() | {"XDG_RUNTIME_DIR": str(runtime)}
    log = scratch / f"{server.name}.log"
    begun = time.perf_counter()
    with log.open("wb") as output, processors(generator=False):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
    running = Running(process, address)
    try:
        _await_reply(process, address, log)
        running.first_reply_ms = (time.perf_counter() - begun) * 1000
        yield running
    finally:
        running.stop()


@contextmanager
def processors(generator: bool) -> Iterator[None]:
    """Choose the processors of programs that start within the context: the last one for the load generator.

    A server gets the other processors. Otherwise the scheduler sometimes puts both on one processor, where a
    call of a single client takes a quarter of the time, and rounds could not be compared.

    If allowed, as for root, the programs also get real-time priority, so that nothing else interrupts them
    (measured: a kernel thread that watches the memory of 4000 guests halved lockd's calls per second).
    """
    allowed = os.sched_getaffinity(0)
    last = {max(allowed)}
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setaffinity(0, last if generator else allowed - last or allowed)
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)
        os.sched_setaffinity(0, allowed)


def _environment() -> dict[str, str]:
    """Return the environment without Python's variables, as a service has it.

    A developer's PYTHONDONTWRITEBYTECODE would keep Python from saving compiled modules, and each start of
    lockd would take half as long again.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _version(program: Path) -> str:
    try:
        answer = subprocess.run(
            [str(program), "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=START_LIMIT_S,
            env=_environment(),
        )
    except OSError as error:
        raise NotMeasuredError(f"{program}: {error.strerror}") from None
    if answer.returncode != 0:
        raise NotMeasuredError(f"{program.name} --version: {_last_line(answer.stderr)}")
    return answer.stdout.strip().replace(str(program), program.name)


def _await_reply(process: subprocess.Popen[bytes], address: Path, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_LIMIT_S)
            try:
                connection.connect(str(address))
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.0005)
                continue
            connection.sendall(_REGISTER)
            if connection.recv(4096) == _REGISTERED:
                return
            break
    raise NotMeasuredError(f"it does not serve: {_last_line(log.read_text(errors='replace'))}")


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "it says nothing")
