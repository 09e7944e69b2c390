"""lockctl status: compared with lslocks, and on terminals of several widths."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd.client.connection import LockConnection
from lockd.client.resource import Resource
from tests.ctl.conftest import LOCKCTL, Host, host_with
from tests.kernel_locks import locks_on
from tests.private_daemon import VIRTLOCKD
from tests.raw_client import RawClient
from tests.waiting import wait_until

SABOTEUR = Path(__file__).with_name("saboteur.py")


def rows(host: Host, *arguments: str | Path, status: int = 0) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = json.loads(host.lockctl("status", "-J", *arguments, status=status))[
        "locks"
    ]
    return listed


def listed_by_lslocks(host: Host) -> set[tuple[object, object]]:
    """Return path and mode of each of the daemon's locks, except the lock on its pid file."""
    lslocks = ["lslocks", "--json", "--notruncate", "--pid", str(host.daemon.pid)]
    output = subprocess.run(lslocks, capture_output=True, check=True).stdout
    listed = json.loads(output)["locks"] if output else []
    modes = {"WRITE": "exclusive", "READ": "shared"}
    return {(row["path"], modes[row["mode"]]) for row in listed if not row["path"].endswith("/virtlockd.pid")}


def test_status_agrees_with_lslocks_on_every_lock(host: Host) -> None:
    disks = [host.disk(f"disk-{number}") for number in range(5)]
    leases = host.directory / "leases"
    with LockConnection.connect(host.daemon.socket) as connection:
        connection.register()
        connection.create_lockspace(str(leases))
        for number, disk in enumerate(disks):
            connection.acquire(Resource("", str(disk)), shared=bool(number % 2))
            connection.acquire(Resource(str(leases), f"lease-{number}", autocreate=True))
        told = {(row["path"], row["mode"]) for row in rows(host)}
        # lslocks may miss locks while other processes of the machine lock and unlock.
        wait_until(lambda: listed_by_lslocks(host) == told, f"lslocks to list {told}")
        assert len(told) == 10
        assert {row["kernel"] for row in rows(host)} == {"yes"}


def test_locks_that_need_several_replies_are_listed_once_each(host: Host) -> None:
    leases = host.directory / "leases"
    with LockConnection.connect(host.daemon.socket) as connection:
        connection.register()
        connection.create_lockspace(str(leases))
        for number in range(450):
            connection.acquire(Resource(str(leases), f"lease-{number}", autocreate=True))
        listed = rows(host)
        assert [row["name"] for row in listed] == [f"lease-{number}" for number in range(450)]
        assert {row["kernel"] for row in listed} == {"yes"}


def test_every_owner_of_a_shared_lock_is_listed(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder("--shared", disk) as first, host.holder("--shared", disk) as second:
        listed = rows(host)
        assert {row["pid"] for row in listed} == {first.pid, second.pid}
        assert {row["mode"] for row in listed} == {"shared"}
        assert [row["pid"] for row in rows(host, "--pid", str(second.pid))] == [second.pid]


def test_the_table_has_five_columns_by_default(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder(disk) as holder:
        heading, line = host.lockctl("status").splitlines()
        assert heading.split() == ["MODE", "OWNER", "PID", "SINCE", "RESOURCE"]
        mode, owner, pid, since, resource = line.split()
        assert (mode, owner, pid, resource) == ("exclusive", "sh", str(holder.pid), str(disk))
        assert re.fullmatch(r"\d\d:\d\d:\d\d", since)


def test_options_are_those_of_lslocks(host: Host) -> None:
    disk = host.disk("a disk")
    with host.holder(disk):
        columns = ("--output", "MODE,PATH,SLOW")
        assert host.lockctl("status", "-n", *columns).split(maxsplit=1) == ["exclusive", f"{disk} -\n"]
        raw = host.lockctl("status", "-r", *columns).splitlines()
        assert raw == ["MODE PATH SLOW", f"exclusive {disk} ".replace("a disk", "a\\x20disk")]
        assert host.lockctl("status", "-o", "+kernel").split("\n")[0].split()[-2:] == ["RESOURCE", "KERNEL"]
        assert rows(host, "-o", "STATE,KERNEL") == [{"state": "held", "kernel": "yes"}]
        assert "there is no column SIZE" in host.lockctl("status", "-o", "SIZE", status=2)


def test_disks_as_arguments_limit_the_list_to_their_locks(host: Host) -> None:
    host.lockspace()
    wanted, other = host.disk("wanted"), host.disk("other")
    with host.holder(wanted, other):
        assert [row["path"] for row in rows(host, wanted)] == [
            json.loads(host.lockctl("resource", "-J", wanted))["path"]
        ]
        assert len(rows(host)) == 2


def test_a_guest_cannot_write_to_the_terminal_by_its_name(host: Host) -> None:
    """Escape sequences, C1 control characters, line breaks, marks that reverse text, and bytes that are no text."""
    disk = host.disk("disk")
    name = "evil\x1b]0;title\x07\x9b31m\x85\u2028\u202e\n\udcff"
    with RawClient(host.daemon, name=name) as client:
        assert client.acquire(disk) is None
        for arguments in ((), ("--raw",), ("--json",), ("--output-all",)):
            printed = host.lockctl("status", *arguments, status=None)
            assert printed.replace("\n", "").isprintable()
            assert "evil" in printed


def test_unprintable_characters_are_escaped_in_a_pipe(host: Host) -> None:
    disk = host.disk("evil \x1b[31m\n\u202ename")
    with host.holder(disk):
        for arguments in ((), ("--raw",), ("--json",), ("--output-all",)):
            printed = host.lockctl("status", *arguments)
            assert printed.replace("\n", "").isprintable()
            assert "evil" in printed
        assert "\\x1b[31m\\x0a\\xe2\\x80\\xaename" in host.lockctl("status")
        assert len(host.lockctl("status").splitlines()) == 2


# Lease files


def test_a_lease_file_is_shown_as_the_disk_of_its_guest(host: Host) -> None:
    """The disk is found in the guest's command line, which is like QEMU's, or among its open files."""
    leases = host.lockspace()
    named, opened, unknown = host.disk('na"med'), host.disk("opened"), host.disk("unknown")
    blockdev = json.dumps({"driver": "file", "filename": str(named)}, separators=(",", ":"))
    with (
        host.holder(named, command=("sh", "-c", "echo up; read _", "qemu", "-blockdev", blockdev)),
        host.holder(opened, command=("sh", "-c", f"exec 3<'{opened}'; echo up; exec cat")),
        host.holder(unknown),
    ):
        disks = {row["resource"] for row in rows(host)}
        assert {str(named), str(opened)} < disks
        assert len(disks) == 3
        (hashed,) = disks - {str(named), str(opened)}
        assert re.fullmatch(f"{leases}/[0-9a-f]{{64}}", str(hashed))
        shown = {row["resource"] for row in rows(host, "--images", host.directory)}
        assert shown == {str(named), str(opened), str(unknown)}


# The kernel's verdict


@pytest.fixture
def sabotaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Host, Path]]:
    """A host with the daemon of saboteur.py, and the file whose lock it sabotages."""
    program = tmp_path / "virtlockd"
    program.write_text(f"#!{sys.executable}\n{SABOTEUR.read_text()}")
    program.chmod(0o755)
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("SABOTAGED", str(file))
    with host_with(tmp_path, program) as host:
        yield host, file


def test_a_lock_that_the_kernel_has_lost_is_an_error(sabotaged: tuple[Host, Path]) -> None:
    host, disk = sabotaged
    kept = host.disk("kept")
    with host.holder(disk, kept):
        assert [row["kernel"] for row in rows(host)] == ["yes", "yes"]
        host.daemon.process.send_signal(signal.SIGRTMIN)
        wait_until(lambda: not locks_on(disk), "the loss of the lock")
        assert "the kernel does not agree on one lock" in host.lockctl("status", status=1)
        listed = json.loads(host.lockctl("status", "-J", status=1).partition("lockctl:")[0])["locks"]
        assert {row["path"]: row["kernel"] for row in listed} == {str(disk): "no", str(kept): "yes"}


def test_a_lock_that_the_daemon_does_not_list_is_an_error(sabotaged: tuple[Host, Path]) -> None:
    host, file = sabotaged
    assert rows(host) == []
    host.daemon.process.send_signal(signal.SIGRTMIN + 1)
    wait_until(lambda: bool(locks_on(file)), "the lock without an owner")
    told = host.lockctl("status", "-o", "+KERNEL", status=1)
    assert re.search(rf"exclusive +- +- +- +{file} +unlisted\n", told)


def test_locks_that_change_in_the_meantime_are_no_error(host: Host) -> None:
    """lockctl asks first the daemon and then the kernel; locks may change in between."""
    disks = [host.disk(f"disk-{number}") for number in range(40)]
    program = (
        "import sys; from pathlib import Path; from lockd.client.connection import LockConnection\n"
        "from lockd.client.resource import Resource\n"
        "with LockConnection.connect(Path(sys.argv[1])) as connection:\n"
        "    connection.register()\n"
        "    print('up', flush=True)\n"
        "    while True:\n"
        "        for disk in sys.argv[2:]: connection.acquire(Resource('', disk))\n"
        "        for disk in sys.argv[2:]: connection.release(Resource('', disk))\n"
    )
    churn = [sys.executable, "-c", program, str(host.daemon.socket), *map(str, disks)]
    with subprocess.Popen(churn, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            for _ in range(40):
                host.lockctl("status")
        finally:
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="virtlockd needs a /run of its own here, which needs root")
def test_locks_of_virtlockd_are_read_from_proc(tmp_path: Path) -> None:
    if not VIRTLOCKD.exists():
        pytest.skip(f"{VIRTLOCKD} is not there")
    with host_with(tmp_path, VIRTLOCKD) as host:
        host.lockspace()
        disk = host.disk("disk")
        with host.holder(disk):
            printed = host.lockctl("status", "-o", "MODE,OWNER,PATH,KERNEL")
            lease = json.loads(host.lockctl("resource", "-J", disk))["path"]
            assert re.search(rf"exclusive +- +{lease} +yes\n", printed)
            assert printed.endswith(
                f"lockctl: the daemon (pid {host.daemon.pid}) is not lockd and cannot be asked for owners: "
                "this list is from /proc\n"
            )
            assert "virtlockd" in host.lockctl("who", disk)


# Without an answer from the daemon


def test_status_reports_a_missing_daemon_in_one_line(host: Host) -> None:
    host.daemon.process.terminate()
    host.daemon.process.wait()
    if os.geteuid() == 0:
        # The daemon's mount namespace ended with the daemon.
        run = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount -t tmpfs tmpfs /run && exec "$0" status',
            str(LOCKCTL),
        ]
    else:
        run = host.command("status")
    done = subprocess.run(run, capture_output=True, text=True, env=host.environment, check=False)
    assert done.returncode == 69
    assert re.fullmatch(r"lockctl: \S+-sock: no lock daemon runs here; start it .*\n", done.stderr)


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
def test_status_reports_a_lack_of_permission_in_one_line(host: Host) -> None:
    program = (
        "import os, sys; from pathlib import Path; from lockd.ctl import main; from lockd.client import status\n"
        "os.setuid(65534); sys.argv = ['lockctl', 'status']\n"
        "from lockd.libvirt import addresses; os.geteuid = lambda: 0\n"
        "main.main()"
    )
    run = [*host.command()[:-1], sys.executable, "-c", program]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 77
    assert re.fullmatch(r"lockctl: \S+: permission denied; .*\n", done.stderr)


def test_a_stopped_daemon_is_reported_as_not_answering(host: Host) -> None:
    host.daemon.stop()
    try:
        assert host.lockctl("status", status=74) == "lockctl: the daemon does not answer\n"
    finally:
        host.daemon.signal(signal.SIGCONT)


# On a terminal


def on_terminal(host: Host, columns: int, *arguments: str) -> str:
    """Return what lockctl prints on a terminal with the given number of columns."""
    output, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    with subprocess.Popen(
        host.command(*arguments),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=host.environment | {"TERM": "xterm"},
    ) as process:
        os.close(terminal)
        printed = b""
        try:
            while data := os.read(output, 65536):
                printed += data
        except OSError:  # EIO: the other end of the terminal is closed
            pass
        finally:
            os.close(output)
        assert process.wait() == 0
    return printed.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_table_fits_its_terminal(host: Host, columns: int) -> None:
    directory = host.directory / "a-directory-of-a-long-name" / "and-another-one-below-it"
    directory.mkdir(parents=True)
    disk = directory / "a-guest-with-a-long-name-系统盘.qcow2"
    disk.touch()
    with host.holder(disk):
        lines = on_terminal(host, columns, "status").splitlines()
        whole = str(disk) in lines[1]
        assert whole == (columns == 200)
        assert lines[1].endswith("系统盘.qcow2")
        # Each of the three Chinese characters takes two columns.
        assert all(len(line) + 3 <= max(columns, 64) for line in lines[1:])
        assert str(disk) in on_terminal(host, columns, "status", "-u")


def test_watch_refreshes_in_place(host: Host) -> None:
    disk = host.disk("disk")
    output, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    with subprocess.Popen(
        host.command("status", "--watch"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=host.environment | {"TERM": "xterm"},
    ) as process:
        os.close(terminal)
        printed = ""

        def read_until(text: str) -> None:
            nonlocal printed
            deadline = time.monotonic() + 15
            while text not in printed:
                assert select.select([output], [], [], deadline - time.monotonic())[0], (
                    f"no {text}: {printed!r}"
                )
                printed += os.read(output, 65536).decode()

        read_until("\x1b[?1049h")
        read_until("RESOURCE")
        with host.holder(disk):
            read_until(str(disk))
        process.send_signal(signal.SIGINT)
        read_until("\x1b[?1049l")
        assert process.wait() == 0
    os.close(output)


def test_watch_needs_a_terminal(host: Host) -> None:
    assert "needs a terminal" in host.lockctl("status", "--watch", status=2)


# Start-up time


def test_modules_that_are_slow_to_import_are_not_imported(host: Host) -> None:
    disk = host.disk("disk")
    program = (
        "import atexit, sys; sys.argv = ['lockctl', 'status']\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from lockd.ctl.main import main; main()"
    )
    with host.holder(disk):
        run = [*host.command()[:-1], sys.executable, "-c", program]
        done = subprocess.run(run, capture_output=True, text=True, env=host.environment, check=True)
    loaded = set(done.stderr.split())
    assert str(disk) in done.stdout
    costly = {"trio", "cryptography", "asyncio", "importlib.metadata", "uuid"}
    assert "lockd.ctl.status" in loaded
    assert not loaded & costly
