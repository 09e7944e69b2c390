"""A live upgrade keeps everything that a client, an administrator or the kernel could notice."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trio

import lockd
from lockd.client.status import StatusConnection
from lockd.wire import frames, lock
from lockd.wire.lock import AcquireFlags, Procedure
from tests.handover.conftest import MakeDisk, MakeGuest
from tests.handover.program import Program, answers, said, upgrade
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import LOCKD, PrivateDaemon, private_daemon
from tests.trouble.guest import Guest, Refused
from tests.waiting import wait_until

PIPELINED = 150  # calls at once: more than are answered in one turn


def call(serial: int, procedure: int, payload: bytes) -> bytes:
    return frames.encode(
        lock.PROGRAM, lock.VERSION, procedure, frames.FrameType.CALL, serial, payload=payload
    )


def read_replies(connection: socket.socket, count: int) -> list[frames.Frame]:
    reader = frames.FrameReader(lock.ARGUMENTS_MAX)
    replies: list[frames.Frame] = []
    while len(replies) < count:
        frame = reader.next_frame()
        if frame is None:
            data = connection.recv(65536)
            assert data, "the daemon closed the connection"
            reader.feed(data)
        else:
            replies.append(frame)
    return replies


def test_locks_owners_and_modes_are_kept(
    daemon: PrivateDaemon, make_guest: MakeGuest, tmp_path: Path
) -> None:
    exclusive, shared, lockspace = tmp_path / "exclusive", tmp_path / "shared", tmp_path / "leases"
    exclusive.touch()
    shared.touch()
    first, second, third = make_guest(), make_guest(), make_guest()
    first.create_lockspace(lockspace)
    first.acquire(exclusive)
    first.acquire(shared, flags=AcquireFlags.SHARED)
    second.acquire(shared, flags=AcquireFlags.SHARED)
    second.acquire(shared, flags=AcquireFlags.SHARED)
    first.acquire(Path("lease"), str(lockspace), AcquireFlags.AUTOCREATE)
    upgrade(daemon)
    for path, mode in ((exclusive, "WRITE"), (shared, "READ"), (lockspace / "lease", "WRITE")):
        assert locks_on(path) == [KernelLock(mode, daemon.pid)]
    with pytest.raises(Refused, match=f'is locked by domain "{first.name}"'):
        third.acquire(exclusive)
    with pytest.raises(Refused, match="does not hold the resource lock"):
        second.release(exclusive)
    third.acquire(shared, flags=AcquireFlags.SHARED)
    for guest in (first, second, third):
        guest.release(shared)
    assert locks_on(shared) == [KernelLock("READ", daemon.pid)]  # the second guest has acquired it twice
    second.release(shared)
    assert locks_on(shared) == []
    first.release(Path("lease"), str(lockspace))
    assert not (lockspace / "lease").exists()
    first.kill()
    first.reap()
    first.drop_connection()
    wait_until(lambda: locks_on(exclusive) == [], "the dead guest's lock is released")


def test_half_a_frame_is_kept(daemon: PrivateDaemon, make_guest: MakeGuest, make_disk: MakeDisk) -> None:
    disk = make_disk()
    acquire = call(7, Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(disk)))
    guests = {cut: make_guest() for cut in (1, 3, 4, 27, 28, 29, len(acquire) - 1)}
    for cut, guest in guests.items():
        guest.connection.sendall(acquire[:cut])
    assert answers(daemon)
    upgrade(daemon)
    upgrade(daemon)
    for cut, guest in guests.items():
        assert not guest.has_reply()
        guest.connection.sendall(acquire[cut:])
        assert read_replies(guest.connection, 1)[0].status == frames.Status.OK
        guest.release(disk)


@pytest.mark.parametrize("sent", ["half", "whole"])
def test_the_end_of_a_large_frame_is_still_dropped_after_an_upgrade(
    daemon: PrivateDaemon, make_guest: MakeGuest, make_disk: MakeDisk, sent: str
) -> None:
    """The daemon drops the end of a large frame.

    The next program has to know how much of it is still to come.
    """
    guest, disk = make_guest(), make_disk()
    large = call(1, Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(disk)) + bytes(10_000_000))
    cut = 5_000_000 if sent == "half" else len(large)
    guest.connection.sendall(large[:cut])
    assert answers(daemon)
    upgrade(daemon)
    guest.connection.sendall(large[cut:])
    guest.connection.sendall(call(2, Procedure.RELEASE_RESOURCE, lock.encode_resource("", str(disk))))
    replies = read_replies(guest.connection, 2)
    assert [(reply.serial, reply.status) for reply in replies] == [(1, 0), (2, 0)]


def test_calls_whose_replies_are_not_read_are_kept(
    daemon: PrivateDaemon, make_guest: MakeGuest, make_disk: MakeDisk
) -> None:
    """Each call is answered once and in order; one of the waiting calls is a large frame."""
    guest, disk = make_guest(), make_disk()
    guest.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    guest.connection.setblocking(False)
    refused = lock.encode_resource("", "/" + "x" * 20_000)
    calls = [call(serial, Procedure.ACQUIRE_RESOURCE, refused) for serial in range(PIPELINED)]
    calls[8] = call(8, Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(disk)) + bytes(300_000))
    unsent = b"".join(calls)
    received = b""
    deadline = time.monotonic() + 60
    upgrades = 0
    reader = frames.FrameReader(frames.LENGTH_MAX)
    replies: list[frames.Frame] = []
    while len(replies) < PIPELINED:
        assert time.monotonic() < deadline
        if unsent and select.select([], [guest.connection], [], 0.1)[1]:
            unsent = unsent[guest.connection.send(unsent) :]
            continue
        # The daemon reads no more calls, because too many replies wait in it.
        if upgrades < 5:
            upgrade(daemon)
            upgrades += 1
        if select.select([guest.connection], [], [], 10)[0]:
            received = guest.connection.recv(1_000_000)
            assert received, "the daemon closed the connection"
            reader.feed(received)
        while (frame := reader.next_frame()) is not None:
            replies.append(frame)
    assert upgrades == 5
    assert [reply.serial for reply in replies] == list(range(PIPELINED))
    assert [reply.serial for reply in replies if reply.status == frames.Status.OK] == [8]
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]


def test_clients_stay_unregistered_or_restricted(
    daemon: PrivateDaemon, make_guest: MakeGuest, make_disk: MakeDisk
) -> None:
    disk, restricted = make_disk(), make_guest()
    restricted.acquire(disk)
    restricted.send(Procedure.RESTRICT, lock.encode_flags())
    restricted.reply()
    with daemon.connect() as unregistered:
        upgrade(daemon)
        unregistered.sendall(call(1, Procedure.ACQUIRE_RESOURCE, lock.encode_resource("", str(disk))))
        assert b"lock owner details have not been registered" in read_replies(unregistered, 1)[0].payload
    with pytest.raises(Refused, match="connection has been restricted"):
        restricted.release(disk)


def test_a_client_of_an_owner_that_has_ended_is_still_refused(
    daemon: PrivateDaemon, make_disk: MakeDisk
) -> None:
    """The pid may be that of another process by then: the client must not act for that one."""
    disk = make_disk()
    with subprocess.Popen(["sleep", "1000"]) as owner:
        libvirtd = Guest(daemon.socket, owner_pid=owner.pid)
        owner.kill()
    with libvirtd:
        for _ in range(2):
            wait_until(lambda: _is_refused(libvirtd, disk), "the end of the owner is noticed")
            upgrade(daemon)
        with pytest.raises(Refused, match="has ended"):
            libvirtd.acquire(disk)


def _is_refused(guest: Guest, disk: Path) -> bool:
    try:
        guest.acquire(disk)
    except Refused:
        return True
    # The owner may end in between.
    with suppress(Refused):
        guest.release(disk)
    return False


def test_the_fencing_of_an_owner_goes_on(
    daemon: PrivateDaemon, make_guest: MakeGuest, make_disk: MakeDisk
) -> None:
    guest, disk = make_guest(), make_disk()
    guest.acquire(disk)
    guest.ignore_sigterm()
    guest.drop_connection()
    wait_until(lambda: "it is killed" in said(daemon), "the guest is being killed")
    upgrade(daemon)
    assert not guest.is_dead
    with StatusConnection.connect(daemon.admin_socket) as status:
        assert [
            owner["fencing_since"] is not None for held in status.locks() for owner in held["owners"]
        ] == [True]
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    assert guest.reap() == signal.SIGKILL
    wait_until(lambda: locks_on(disk) == [], "the killed guest's lock is released")


def test_an_owner_that_dies_during_the_upgrade_loses_its_lock(
    daemon: PrivateDaemon, program: Program, make_guest: MakeGuest, make_disk: MakeDisk
) -> None:
    guest, survivor, disk, other = make_guest(), make_guest(), make_disk(), make_disk()
    guest.acquire(disk)
    survivor.acquire(other)
    program.install_lockd_after(
        f"import time; os.kill({guest.pid}, 9)\n"
        f"while ') Z ' not in open('/proc/{guest.pid}/stat').read(): time.sleep(0.01)"
    )
    upgrade(daemon)
    wait_until(lambda: locks_on(disk) == [], "the dead guest's lock is released")
    survivor.acquire(disk)
    assert locks_on(other) == [KernelLock("WRITE", daemon.pid)]


def test_status_shows_the_same_locks_after_an_upgrade(
    daemon: PrivateDaemon, make_guest: MakeGuest, make_disk: MakeDisk
) -> None:
    guest, disk = make_guest(), make_disk()
    guest.acquire(disk)

    def held() -> list[dict[str, object]]:
        with StatusConnection.connect(daemon.admin_socket) as status:
            return list(status.locks())

    before = held()
    upgrade(daemon)
    after = held()
    assert [{**lock, "number": 0} for lock in before] == [{**lock, "number": 0} for lock in after]


def test_a_connection_to_the_admin_socket_is_kept(daemon: PrivateDaemon) -> None:
    with StatusConnection.connect(daemon.admin_socket) as status:
        pid = status.daemon()["pid"]
        upgrade(daemon)
        assert status.daemon()["pid"] == pid == daemon.pid


def test_new_settings_are_read(tmp_path: Path, program: Program) -> None:
    with (
        private_daemon(tmp_path / "daemon", program.path, settings="max_clients = 1\n") as daemon,
        daemon.connect() as first,
    ):
        first.sendall(call(1, Procedure.CREATE_LOCKSPACE, lock.encode_create_lockspace("")))
        read_replies(first, 1)
        with daemon.connect() as second:
            second.sendall(call(1, Procedure.CREATE_LOCKSPACE, lock.encode_create_lockspace("")))
            assert not select.select([second], [], [], 0.2)[0]
            configuration = tmp_path / "daemon" / "virtlockd.conf"
            configuration.write_text(configuration.read_text().replace("max_clients = 1", "max_clients = 5"))
            daemon.signal(signal.SIGUSR1)
            read_replies(second, 1)


def test_settings_of_virt_admin_are_kept(daemon: PrivateDaemon) -> None:
    if os.geteuid() != 0 or shutil.which("virt-admin") is None:
        pytest.skip("virt-admin, on a private /run, needs root")
    inside = ["nsenter", "--target", str(daemon.pid), "--mount", "--"]

    def virt_admin(*words: str) -> str:
        command = [*inside, "virt-admin", "--quiet", "--connect", "virtlockd:///system", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    file = daemon.directory / "another-log"
    virt_admin("server-clients-set", "virtlockd", "--max-clients", "2000")
    virt_admin("daemon-log-filters", "1:daemon 4:rpc")
    virt_admin("daemon-log-outputs", f"1:file:{file}")
    asked = [
        ("server-clients-info", "virtlockd"),
        ("server-clients-info", "admin"),
        ("server-threadpool-info", "virtlockd"),
        ("daemon-log-filters",),
        ("daemon-log-outputs",),
    ]
    before = [virt_admin(*words) for words in asked]
    configuration = daemon.directory / "virtlockd.conf"
    configuration.write_text(configuration.read_text() + "max_clients = 55\nadmin_max_clients = 6\n")
    for _ in range(2):
        upgrade(daemon)
        after = [virt_admin(*words) for words in asked]
        assert [after[0].split()[:3], *after[2:]] == [before[0].split()[:3], *before[2:]]
        assert after[1].split()[2] == "6"
    assert "took over" in file.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="hiding files from the daemon needs root")
def test_the_files_of_the_old_version_are_not_needed_any_more(
    daemon: PrivateDaemon, program: Program, make_guest: MakeGuest, make_disk: MakeDisk
) -> None:
    """A new version of Python or lockd may have replaced these files: the daemon may import nothing late."""
    guest, disk = make_guest(), make_disk()
    guest.acquire(disk)
    hidden = [os.path.dirname(os.__file__), str(Path(lockd.__file__).parent), str(Path(trio.__file__).parent)]
    for directory in hidden:
        daemon.run_inside("mount", "-t", "tmpfs", "tmpfs", directory)
    program.install_script(
        f'#!/bin/sh\ncase "$*" in *--version) echo "virtlockd (lockd) new"; exit;; esac\n'
        f'umount {" ".join(hidden)}\nexec {LOCKD} "$@"\n'
    )
    upgrade(daemon)
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    guest.release(disk)


def test_the_idle_time_is_kept(tmp_path: Path, program: Program) -> None:
    """An idle daemon ends after its timeout, even if it is upgraded in the meantime."""
    wrapper = ["sh", "-c", 'exec "$@" --timeout=5', "sh"]
    with private_daemon(tmp_path / "daemon", program.path, wrapper=wrapper) as daemon:
        pidfd = os.pidfd_open(daemon.pid)
        begun = time.monotonic()
        while not select.select([pidfd], [], [], 1.8)[0]:
            assert time.monotonic() - begun < 20, "upgrades keep an idle daemon alive"
            daemon.signal(signal.SIGUSR1)
        os.close(pidfd)
        assert time.monotonic() - begun > 3
        assert daemon.process.wait() == 0


def test_the_pid_file_stays_locked(daemon: PrivateDaemon, tmp_path: Path) -> None:
    pid_file = daemon.run_directory / "virtlockd.pid"
    if os.geteuid() != 0:
        pid_file = daemon.socket.parent / "virtlockd.pid"
    for _ in range(2):
        upgrade(daemon)
        assert KernelLock("WRITE", daemon.pid) in locks_on(pid_file)
        assert pid_file.read_text().strip() == str(daemon.pid)


def test_signals_in_quick_succession_do_no_harm(
    daemon: PrivateDaemon, make_guest: MakeGuest, make_disk: MakeDisk
) -> None:
    """Signals may come also between the exec and the moment when the next program handles them."""
    guest, disk = make_guest(), make_disk()
    guest.acquire(disk)
    image = daemon.running_image()
    upgrades = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        daemon.signal(signal.SIGUSR1)
        daemon.signal(signal.SIGHUP)
        now = daemon.running_image()
        upgrades += now not in {image, b""}
        image = now
        time.sleep(0.0005)
    assert upgrades >= 2
    assert answers(daemon)
    assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
    guest.release(disk)


_ACTIVATE = """
import os, socket, sys
listeners = [socket.socket(socket.AF_UNIX) for _ in range(2)]
for listener, path in zip(listeners, sys.argv[1:3]):
    listener.bind(path)
    listener.listen()
for number, fd in enumerate([os.dup(listener.fileno()) for listener in listeners]):
    os.dup2(fd, 3 + number, inheritable=True)
os.environ["LISTEN_FDS"] = "2"
os.environ["LISTEN_FDNAMES"] = "virtlockd.socket:virtlockd-admin.socket"
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.mark.parametrize("activated", [False, True])
def test_a_daemon_removes_only_sockets_that_it_has_made(
    tmp_path: Path, program: Program, activated: bool
) -> None:
    """systemd's sockets stay, because systemd listens on them when the daemon has ended."""
    directory = "/run/libvirt" if os.geteuid() == 0 else str(tmp_path / "daemon" / "run" / "libvirt")
    (tmp_path / "daemon" / "run" / "libvirt").mkdir(parents=True)
    paths = [f"{directory}/virtlockd-sock", f"{directory}/virtlockd-admin-sock"]
    wrapper = [sys.executable, "-c", _ACTIVATE, *paths] if activated else []
    with private_daemon(tmp_path / "daemon", program.path, wrapper=wrapper) as daemon:
        assert answers(daemon)  # with systemd, the sockets are there before the daemon
        upgrade(daemon)
        upgrade(daemon)
        daemon.signal(signal.SIGTERM)
        assert daemon.process.wait(15) == 0
        assert (daemon.socket.exists(), daemon.admin_socket.exists()) == (activated, activated)


def test_a_background_daemon_started_by_a_relative_path_can_be_upgraded(tmp_path: Path) -> None:
    """The daemon has changed its directory to /: relative paths of its command line now mean other files."""
    if os.geteuid() != 0:
        pytest.skip("a private /run needs root")
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "virtlockd.conf").write_text("max_clients = 7\n")
    (tmp_path / "virtlockd").symlink_to(LOCKD)
    script = 'mount --bind "$1" /run; cd "$2"; ./virtlockd --daemon --config virtlockd.conf --pid-file own.pid; exec cat'
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", run, tmp_path], stdin=subprocess.PIPE
    ) as keeper:
        wait_until(lambda: (run / "libvirt" / "virtlockd-sock").exists(), "the daemon has its pid file")
        pid = int((tmp_path / "own.pid").read_text())
        try:
            admin_socket = run / "libvirt" / "virtlockd-admin-sock"
            wait_until(admin_socket.exists, "the daemon has made its sockets")
            with StatusConnection.connect(admin_socket) as status:
                assert status.daemon()["pid"] == pid
            auxv = Path(f"/proc/{pid}/auxv")
            before = auxv.read_bytes()
            os.kill(pid, signal.SIGUSR1)
            wait_until(lambda: auxv.read_bytes() not in {before, b""}, "the daemon has replaced its program")
            with StatusConnection.connect(admin_socket) as status:
                assert status.daemon()["pid"] == pid
            assert int((tmp_path / "own.pid").read_text()) == pid
        finally:
            os.kill(pid, signal.SIGKILL)
            assert keeper.stdin is not None
            keeper.stdin.close()
