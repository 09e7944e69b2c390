"""Which files the daemon opens while it runs.

Closing a file ends all locks of the process on it (fcntl(2)). So the daemon opens nothing but what it locks, its logs,
and what no client can lock: files that the kernel makes up, directories and devices (Invariant 1).
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd.client.status import StatusConnection
from lockd.daemon.server import LOCK_SERVER
from lockd.wire.admin import Procedure
from lockd.wire.frames import FrameType, encode
from tests.admin.raw_admin import RawAdmin, arguments, client, optional
from tests.daemon import faulty_daemon
from tests.faults.tracer import Call, can_trace, recorded
from tests.faults.tracer import calls as calls_of
from tests.kernel_locks import locked_by_this_process
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.raw_client import AUTOCREATE
from tests.trouble.guest import Guest, Refused
from tests.waiting import wait_until

OPENED = re.compile(r"open(?:at2?)?\(.* = \d+<(?P<path>.*)>")
UNLOCKABLE = ("/proc/", "/sys/", "/dev/null")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[PrivateDaemon]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if not can_trace():
        pytest.skip("strace is not installed, or may not trace")
    program = Path(faulty_daemon.__file__)
    with private_daemon(tmp_path / "daemon", program, wrapper=[sys.executable]) as running:
        yield running


def opened(calls: list[Call]) -> set[str]:
    """Return the paths of the files that the daemon itself has opened: not its children, and not only as a name."""
    children = {call.thread for call in calls if call.name == "execve"}
    found = (
        OPENED.match(call.text)
        for call in calls
        if call.thread not in children and "O_PATH" not in call.text and "O_DIRECTORY" not in call.text
    )
    return {match["path"] for match in found if match is not None}


def test_the_daemon_opens_nothing_that_a_client_can_lock(daemon: PrivateDaemon, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    files = tmp_path / "files"
    files.mkdir()
    zone = Path(shutil.copy("/etc/localtime", tmp_path / "zone"))
    with recorded(daemon.pid, trace):
        daemon.run_inside("mount", "--bind", str(zone), "/etc/localtime")
        administer(daemon, files / "log")
        live(daemon, files)
    paths = opened(calls_of(trace))
    assert {str(files / "log"), str(files / "disk")} <= paths, "the trace shows what is opened"
    assert {path for path in paths if not path.startswith((*UNLOCKABLE, str(files)))} == set()


def administer(daemon: PrivateDaemon, log: Path) -> None:
    """Make every call of the administration that ends nothing."""
    outputs = f"1:syslog:lockd 1:stderr 1:file:{log}"
    payloads = {
        Procedure.SET_LOGGING_OUTPUTS: arguments(optional(outputs), 0),
        Procedure.CLIENT_GET_INFO: arguments(client(LOCK_SERVER, 2), 0),
    }
    with RawAdmin(daemon.admin_socket) as end, daemon.connect():
        for procedure in Procedure:
            if procedure not in {Procedure.CONNECT_CLOSE, Procedure.DAEMON_SHUTDOWN}:
                assert end.call(procedure, payloads.get(procedure, bytes(64))) is not None
        end.result(Procedure.SET_LOGGING_OUTPUTS, payloads[Procedure.SET_LOGGING_OUTPUTS])
    with StatusConnection.connect(daemon.admin_socket) as status:
        status.daemon()
        assert list(status.locks()) == []


def live(daemon: PrivateDaemon, files: Path) -> None:
    """Have guests acquire and release, be refused and meet a fault, until the housekeeping has been done as well."""
    disk, link, taken = files / "disk", files / "link", files / "taken"
    for path in (disk, taken):
        path.touch()
    link.symlink_to(disk)
    with Guest(daemon.socket) as guest, locked_by_this_process(taken):
        guest.acquire(disk)
        guest.acquire(files / "lease", flags=AUTOCREATE)
        for path in (link, taken):
            with pytest.raises(Refused, match="is locked"):
                guest.acquire(path)
        guest.release(files / "lease")
        fault = encode(
            faulty_daemon.PROGRAM, faulty_daemon.VERSION, faulty_daemon.FAIL, FrameType.CALL, 0, payload=b""
        )
        guest.connection.sendall(fault)
        with pytest.raises(Refused):
            guest.reply()
        guest.connection.close()
        wait_until(lambda: guest.is_dead, "the guest is dead")
    with Guest(daemon.socket) as guest:
        wait_until(lambda: "Traceback" in daemon_log(files), "the log has the traceback")
        guest.acquire(disk)


def daemon_log(files: Path) -> str:
    return (files / "log").read_text()
