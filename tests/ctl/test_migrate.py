"""lockctl migrate --check: its findings, and that the migration then goes as they say."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd.client.connection import LockConnection
from lockd.client.resource import Resource
from tests.ctl.conftest import Host
from tests.handover.program import Program, replace_program
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import LOCKD, VIRTLOCKD, private_daemon

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not VIRTLOCKD.exists(),
    reason=f"a private /run needs root; {VIRTLOCKD} is needed, too",
)

GUEST = ("sh", "-c", "echo up; read line", "-name", "guest=vm1")
"""A command with the argument of QEMU by which the name of a guest is found."""


class Migrating:
    """A host on which the program of the lock daemon can be replaced."""

    def __init__(self, host: Host, program: Program) -> None:
        self.host = host
        self.program = program
        self.daemon = host.daemon

    def found(self, *arguments: str, status: int = 0) -> dict[str, tuple[str, str]]:
        output = json.loads(self.host.lockctl("migrate", "--check", "--json", *arguments, status=status))
        return {entry["subject"]: (entry["result"], entry["detail"]) for entry in output["findings"]}


@pytest.fixture
def running(request: pytest.FixtureRequest) -> str:
    name: str = getattr(request, "param", "virtlockd")
    return name


@pytest.fixture
def migrating(tmp_path: Path, running: str) -> Iterator[Migrating]:
    program = Program(tmp_path / "sbin")
    program.install(running)
    with private_daemon(tmp_path / "daemon", program.path) as daemon:
        yield Migrating(Host(tmp_path, daemon), program)


@pytest.mark.parametrize(
    ("running", "other"), [("virtlockd", "lockd"), ("lockd", "virtlockd")], indirect=["running"]
)
def test_a_host_that_can_migrate_passes_and_migrates(migrating: Migrating, running: str, other: str) -> None:
    host, disk = migrating.host, migrating.host.disk("disk")
    with host.holder(disk, command=GUEST):
        migrating.program.install(other)
        found = migrating.found()
        assert {result for result, _ in found.values()} == {"PASS"}
        assert found["running daemon"][1] == f"{running} (pid {host.daemon.pid})"
        assert found[f"program {migrating.program.path}"][1].startswith(
            f"{running} would be replaced by {other} "
        )
        assert "for 1 clients and 2 locks" in found["size of the state"][1]
        replace_program(host.daemon)
        assert migrating.found(status=0)["running daemon"][1] == f"{other} (pid {host.daemon.pid})"
        assert locks_on(disk) == [KernelLock("WRITE", host.daemon.pid)]


@pytest.mark.parametrize("running", ["virtlockd", "lockd"], indirect=True)
def test_the_program_that_runs_already_is_a_warning(migrating: Migrating, running: str) -> None:
    result, detail = migrating.found()[f"program {migrating.program.path}"]
    assert result == "WARN"
    assert detail.startswith(f"goes on with {running} ")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("/nonexistent", "cannot be run: No such file or directory"),
        ("/bin/true", "is no lock daemon"),
        ("/bin/false", "does not run with the daemon's arguments"),
    ],
)
def test_a_program_that_cannot_take_over_is_a_failure(migrating: Migrating, program: str, words: str) -> None:
    result, detail = migrating.found("--to", program, status=1)[f"program {program}"]
    assert result == "FAIL"
    assert words in detail


def test_a_client_of_virtlockd_that_may_not_have_registered_is_a_failure(migrating: Migrating) -> None:
    with socket.socket(socket.AF_UNIX) as unregistered:
        unregistered.connect(str(migrating.daemon.socket))
        result, detail = migrating.found("--to", str(LOCKD), status=1)["clients"]
        assert result == "FAIL"
        assert f"(pid {os.getpid()}) is connected, and is no guest" in detail
    # The finding is right: virtlockd ends when it is told to take over.
    with socket.socket(socket.AF_UNIX) as unregistered:
        unregistered.connect(str(migrating.daemon.socket))
        migrating.found("--to", str(LOCKD), status=1)
        migrating.daemon.process.send_signal(10)
        assert migrating.daemon.process.wait(15) != 0


@pytest.mark.parametrize("running", ["lockd"], indirect=True)
def test_a_client_of_lockd_that_has_not_registered_passes(migrating: Migrating) -> None:
    with socket.socket(socket.AF_UNIX) as unregistered:
        unregistered.connect(str(migrating.daemon.socket))
        assert migrating.found("--to", str(VIRTLOCKD))["clients"][0] == "PASS"


def test_a_daemon_that_may_not_have_enough_descriptors_is_a_failure(migrating: Migrating) -> None:
    subprocess.run(["prlimit", "--pid", str(migrating.daemon.pid), "--nofile=64:64"], check=True)
    result, detail = migrating.found("--to", str(LOCKD), status=1)["descriptors"]
    assert result == "FAIL"
    assert f"prlimit --pid {migrating.daemon.pid} --nofile=" in detail


def test_a_state_file_that_cannot_be_written_is_a_failure(migrating: Migrating) -> None:
    subject = "state file /run/virtlockd-restart-exec.json"
    state = migrating.daemon.run_directory / "virtlockd-restart-exec.json"
    state.mkdir()
    assert migrating.found("--to", str(LOCKD), status=1)[subject][0] == "FAIL"
    state.rmdir()
    assert migrating.found("--to", str(LOCKD))[subject][0] == "PASS"


@pytest.mark.parametrize("running", ["lockd"], indirect=True)
def test_a_state_that_is_too_large_for_virtlockd_is_a_failure(migrating: Migrating) -> None:
    deep = migrating.host.directory / "/".join(["x" * 250] * 13)
    deep.mkdir(parents=True)
    with LockConnection.connect(migrating.daemon.socket) as connection:
        connection.register()
        for number in range(1600):
            disk = deep / str(number)
            disk.touch()
            connection.acquire(Resource("", str(disk)))
        result, detail = migrating.found("--to", str(VIRTLOCKD), status=1)["size of the state"]
        assert result == "FAIL"
        assert "virtlockd can take over 10 MiB at most" in detail
        assert migrating.found("--to", str(LOCKD))["size of the state"][0] == "WARN"
        log = migrating.daemon.log
        migrating.program.install("virtlockd")
        before = migrating.daemon.running_image()
        migrating.daemon.process.send_signal(10)
        while "the next program can read 10485760 at most" not in log.read_text():
            assert migrating.daemon.process.poll() is None
        assert migrating.daemon.running_image() == before
