"""The servers under measurement, each started afresh under the same conditions.

As root every daemon of libvirt's protocol uses the same paths below /run. So the whole benchmark runs in a
mount namespace of its own with an empty tmpfs there, which leaves the machine's daemons alone; another user's
daemon goes by XDG_RUNTIME_DIR. Only one daemon runs at a time.
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

# The daemon's default, 1024, is less than the guests that are measured.
CONFIGURATION = "max_clients = 10000\n"
START_LIMIT_S = 10.0

_INSIDE = "LOCKD_BENCHMARK_NAMESPACE"
_REGISTER = struct.pack(
    ">7I 16s I8s 3I", 68, 0x0EA7BEEF, 1, 1, 0, 0, 0, b"benchmark-uuid--", 5, b"bench", 1, os.getpid(), 0
)
_REGISTERED = struct.pack(">7I", 28, 0x0EA7BEEF, 1, 1, 1, 0, 0)


class NotMeasuredError(Exception):
    """Something could not be measured; the message is one line that says why."""


@dataclass(frozen=True)
class Server:
    """A program that serves the lock protocol.

    `command` is what starts it; `{socket}` and `{configuration}` in it stand for paths.
    """

    name: str
    command: tuple[str, ...]
    version: str


@dataclass
class Running:
    """A started server, whose first reply came `first_reply_ms` milliseconds after its start."""

    process: subprocess.Popen[bytes]
    socket: Path
    first_reply_ms: float = 0.0

    @property
    def resident_mb(self) -> float:
        """Its resident memory in units of 10^6 bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return int(fields["VmRSS"].split()[0]) * 1024 / 1e6

    def stop(self) -> None:
        """End it by SIGKILL: told to end, a daemon would first fence the guests that it disconnects."""
        self.process.kill()
        self.process.wait()

    @property
    def held_locks(self) -> int:
        """How many locks the kernel says it holds."""
        lines = Path("/proc/locks").read_text().splitlines()
        return sum(f" {self.process.pid} " in line for line in lines)


def enter_private_run(argv: list[str]) -> None:
    """As root, go on in a mount namespace with an empty /run: executes `argv` again, inside.

    Raises NotMeasuredError where this machine gives root no namespace.
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
    """Where a daemon makes its sockets and its state: /run, or `scratch` for a user's daemon."""
    return Path("/run") if os.geteuid() == 0 else scratch


def lockd(program: Path) -> Server:
    """The lockd whose console script is `program`."""
    return Server("lockd", (str(program), "--config", "{configuration}"), _version(program))


def virtlockd(program: Path) -> Server:
    """libvirt's daemon at `program`; NotMeasuredError where it is missing or is another one's."""
    version = _version(program)
    if "libvirt" not in version:
        raise NotMeasuredError(f"{program} is not libvirt's virtlockd: {version}")
    return Server("virtlockd", (str(program), "--config", "{configuration}"), version)


def floor(program: Path) -> Server:
    """The bare C server."""
    return Server("floor", (str(program), "{socket}"), "benchmarks/floor.c")


@contextmanager
def started(server: Server, scratch: Path) -> Iterator[Running]:
    """Run `server` until the end of the block, its log in `scratch`.

    Raises NotMeasuredError where it does not serve.
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
    """What starts in the block runs on the last processor if it is the load generator, else on the others.

    Left to the scheduler, both sometimes share one processor, on which a single client's call takes a quarter
    of the time, and a round with and a round without that are no pair. Root may give it real-time priority,
    so that nothing else takes its turn (measured: a kernel thread that watches over the memory of 4000 guests
    halved lockd's calls).
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
    """A service's environment has no developer's PYTHONDONTWRITEBYTECODE.

    Where that keeps lockd from being compiled once and for all, each of its starts takes half as long again.
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
