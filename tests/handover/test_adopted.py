"""The next program finds a state, locks or descriptors that are wrong, and the old program is gone already.

It keeps each lock that can be kept, and names the others.
"""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lockd.client.errors import Refused as StatusRefused
from lockd.client.status import StatusConnection
from tests.container import Container
from tests.forbid import forbidding
from tests.handover.conftest import MakeDisk, MakeGuest
from tests.handover.program import Program, answers, said, upgrade, upgrade_to_new_sockets
from tests.kernel_locks import KernelLock, locked_by_this_process, locks_on
from tests.private_daemon import LOCKD, PrivateDaemon, private_daemon
from tests.trouble.guest import Guest, Refused
from tests.waiting import wait_until


def doubts(daemon: PrivateDaemon) -> dict[str, str]:
    with StatusConnection.connect(daemon.admin_socket) as status:
        return {held["path"]: held["doubt"] for held in status.locks() if held["doubt"]}


def lockctl_status(daemon: PrivateDaemon) -> subprocess.CompletedProcess[str]:
    """Run lockctl status on the daemon's host."""
    inside = ["nsenter", "--target", str(daemon.pid), "--mount", "--"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*inside, str(LOCKD.with_name("lockctl")), "status"],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_RUNTIME_DIR": str(daemon.run_directory)},
        check=False,
    )


def logged_of(path: Path, daemon: PrivateDaemon) -> str:
    """Wait until the daemon has logged what is wrong with a lock, and return that."""
    start = f"{path} was taken over, but "
    wait_until(lambda: start in said(daemon), "the lock is in doubt")
    return said(daemon).partition(start)[2].splitlines()[0]


class Guests:
    """Two guests with a lock each. A test spoils the state of the first; the second has to keep its lock."""

    def __init__(self, daemon: PrivateDaemon, make_guest: MakeGuest, make_disk: MakeDisk) -> None:
        self.daemon = daemon
        self.spoilt, self.disk = make_guest(), make_disk()
        self.spared, self.other_disk = make_guest(), make_disk()
        self.spoilt.acquire(self.disk)
        self.spared.acquire(self.other_disk)

    def spared_is_served(self) -> None:
        assert locks_on(self.other_disk) == [KernelLock("WRITE", self.daemon.pid)]
        self.spared.release(self.other_disk)
        self.spared.acquire(self.other_disk)
        assert answers(self.daemon)


@pytest.fixture
def guests(daemon: PrivateDaemon, make_guest: MakeGuest, make_disk: MakeDisk) -> Guests:
    return Guests(daemon, make_guest, make_disk)


def test_a_lock_that_the_kernel_has_lost_is_taken_again(
    daemon: PrivateDaemon, program: Program, guests: Guests
) -> None:
    program.install_lockd_after("os.close(os.dup(resources[0]['fd']))")
    upgrade(daemon)
    assert doubts(daemon) == {str(guests.disk): "the lock was lost, and taken again"}
    shown = lockctl_status(daemon)
    assert shown.returncode == 1
    assert f"{guests.disk} is in doubt: the lock was lost, and taken again" in shown.stderr
    assert logged_of(guests.disk, daemon) == "the lock was lost, and taken again"
    assert locks_on(guests.disk) == [KernelLock("WRITE", daemon.pid)]
    guests.spared_is_served()
    guests.spoilt.release(guests.disk)
    assert doubts(daemon) == {}
    assert lockctl_status(daemon).returncode == 0


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("os.close(os.dup(resources[0]['fd']))", "was taken over, but the lock was lost: Lockspace resource"),
        ("os.close(resources[0]['fd'])", "could not be taken over: Busy: Lockspace resource"),
    ],
)
def test_a_lock_that_another_process_has_taken_is_reported_as_lost(
    daemon: PrivateDaemon, program: Program, guests: Guests, tmp_path: Path, code: str, word: str
) -> None:
    lost, go_on = tmp_path / "lost", tmp_path / "go-on"
    program.install_lockd_after(
        f"{code}; open({str(lost)!r}, 'w')\nwhile not os.path.exists({str(go_on)!r}): pass"
    )
    image = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    wait_until(lost.exists, "the lock is lost")
    with locked_by_this_process(guests.disk):
        go_on.touch()
        assert answers(daemon)
        assert daemon.running_image() != image
        wait_until(
            lambda: any(word in line and str(guests.disk) in line for line in said(daemon).splitlines()),
            "the loss is logged",
        )
        guests.spared_is_served()
        assert locks_on(guests.disk) == [KernelLock("WRITE", os.getpid())]


@pytest.mark.parametrize("hours", [-5, 5])
@pytest.mark.parametrize("knows_peers", [True, False])
def test_a_step_of_the_clock_costs_no_guest_its_lock(
    tmp_path: Path, program: Program, make_disk: MakeDisk, hours: int, knows_peers: bool
) -> None:
    """The state of virtlockd has only times of the clock, which was set since.

    An older kernel cannot tell who connected, so that the process may be another one: it is not killed.
    """
    wrapper = () if knows_peers else forbidding(so_peerpidfd=errno.ENOPROTOOPT)
    disk = make_disk()
    with (
        private_daemon(tmp_path / "clock", program.path, wrapper=wrapper) as daemon,
        Guest(daemon.socket) as guest,
        Guest(daemon.socket) as other,
    ):
        guest.acquire(disk)
        other.acquire(other_disk := make_disk())
        step = f"entry['conn_time'] += {hours * 3600}; del entry['lockd']"
        program.install_lockd_after(
            f"for entry in server['clients']: {step}\n"
            "for entry in resources: del entry['lockd']\n"
            "del state['lockd']"
        )
        upgrade(daemon)
        with StatusConnection.connect(daemon.admin_socket) as status:
            with pytest.raises(StatusRefused, match="which is alive on this host"):
                status.release("", str(disk))
            assert {owner["pid"] for held in status.locks() for owner in held["owners"]} == {
                guest.pid,
                other.pid,
            }
        guest.kill()
        wait_until(lambda: locks_on(disk) == [], "the dead guest's lock is released")
        other.drop_connection()
        if knows_peers:
            wait_until(lambda: locks_on(other_disk) == [], "the lock of the guest that hung up is released")
            assert other.is_dead
        else:
            wait_until(lambda: "it is not killed" in said(daemon), "the daemon says that it spares the guest")
            assert locks_on(other_disk) == [KernelLock("WRITE", daemon.pid)]
            assert not other.is_dead


def test_the_lock_of_a_replaced_file_is_in_doubt(daemon: PrivateDaemon, guests: Guests) -> None:
    guests.disk.rename(guests.disk.with_name("moved"))
    guests.disk.touch()
    upgrade(daemon)
    assert logged_of(guests.disk, daemon) == "the path names another file than the locked one"
    assert doubts(daemon) == {str(guests.disk): "the path names another file than the locked one"}
    guests.spared_is_served()


@pytest.mark.parametrize(
    "code",
    [
        "os.close(resources[0]['fd'])",
        "fd = os.open('/dev/null', os.O_RDONLY); os.dup2(fd, resources[0]['fd'])",
        "a, b = os.pipe(); os.dup2(a, resources[0]['fd'])",
    ],
)
def test_a_lock_whose_descriptor_is_gone_is_taken_again(
    daemon: PrivateDaemon, program: Program, guests: Guests, code: str
) -> None:
    """The owner may still write, so the daemon takes the lock again if it is free."""
    program.install_lockd_after(code)
    upgrade(daemon)
    assert doubts(daemon) == {str(guests.disk): "the lock was lost, and taken again"}
    assert locks_on(guests.disk) == [KernelLock("WRITE", daemon.pid)]
    guests.spared_is_served()
    guests.spoilt.release(guests.disk)
    assert locks_on(guests.disk) == []


@pytest.mark.parametrize(
    "code",
    [
        "del resources[0]['name']",
        "resources[0]['fd'] = 'x'",
        "resources[0]['owners'] = None",
        "resources[0]['lockd'] = {}; resources[0]['flags'] = {}",
        "resources.insert(0, None)",
        "del state['lockspaces']",
        "state['lockspaces'].insert(0, {})",
        "del extra['owners']",
        "extra['owners'] = None",
        "extra['owners'][0]['pidfd'] = 9999",
        "extra['owners'][0]['uuid'] = 'no uuid'",
        "extra['owners'].insert(0, 7)",
        "extra['releasing'] = [{}]",
        "extra['log'] = {'files': None}",
        "extra['log'] = {'outputs': 'nonsense', 'filters': 'nonsense'}",
        "extra['timeout'] = 'soon'",
        "extra['idle_seconds'] = 'long'",
        "extra['pid_file'] = 9999",
        "os.close(extra['pid_file'])",
        "server['next_client_id'] = None",
        "server['max_clients'] = 'many'",
        "del state['daemon']['servers']['admin']",
        "state['daemon']['servers']['admin'] = None",
        "server['lockd'] = None",
        "server['clients'].insert(0, {})",
        "server['clients'].insert(0, None)",
        "os.close(server['clients'][0]['sock']['fd'])",
        "server['clients'][0]['privateData'] = None",
        "server['clients'][0]['lockd'] = {'input': 'AAAA', 'call': 'AAAA', 'output': 'x', 'missing': None}",
        "extra.clear(); extra['process'] = kept",
    ],
)
def test_an_unreadable_part_of_the_state_does_not_cost_other_locks(
    daemon: PrivateDaemon, program: Program, guests: Guests, code: str
) -> None:
    program.install_lockd_after(f"kept = extra['process']\n{code}")
    upgrade(daemon)
    guests.spared_is_served()
    upgrade(daemon)
    guests.spared_is_served()


@pytest.mark.parametrize(
    "code",
    [
        "client['privateData'] = None",
        "client['privateData']['ownerUUID'] = 'no uuid'",
        "del client['privateData']['restricted']",
        "client['id'] = 'one'",
        "client['id'] = server['clients'][1]['id']; server['clients'].reverse()",
        "client['conn_time'] = None",
        "client['lockd']['call'] = 'x'",
        "client['lockd']['output'] = 7",
        "client['lockd']['missing'] = 7",
    ],
)
def test_a_client_that_cannot_be_taken_over_is_closed_and_its_guest_keeps_its_lock(
    daemon: PrivateDaemon, program: Program, guests: Guests, code: str
) -> None:
    """Left open, it would wait for ever for its next reply. The guest has not hung up, so it is not killed."""
    program.install_lockd_after(f"client = server['clients'][0]; {code}")
    upgrade(daemon)
    with pytest.raises(ConnectionResetError):
        guests.spoilt.reply()
    guests.spared_is_served()
    # A guest that is fenced gets its first signal after 0.1 seconds.
    with pytest.raises(AssertionError, match="timed out"):
        wait_until(lambda: guests.spoilt.is_dead, "the guest is dead", seconds=0.3)
    assert locks_on(guests.disk) == [KernelLock("WRITE", daemon.pid)]
    guests.spoilt.kill()
    wait_until(lambda: locks_on(guests.disk) == [], "the lock ends with the guest")


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
def test_an_owner_that_cannot_be_seen_is_the_same_without_its_part_of_the_state(
    tmp_path: Path, program: Program, make_disk: MakeDisk
) -> None:
    """Its key tells of no process, and its client says who it is."""
    disk, wrapper = make_disk(), forbidding(ns_get_tgid_from_pidns=errno.ENOTTY)
    with (
        private_daemon(tmp_path / "blind", program.path, wrapper=wrapper) as daemon,
        Container() as container,
    ):
        guest, libvirtd = container.start(daemon.socket), container.start(daemon.socket)
        client = libvirtd.register(guest.number)
        assert client.acquire(disk) is None
        program.install_lockd_after("extra['owners'] = []")
        upgrade(daemon)
        assert client.release(disk) is None
        assert locks_on(disk) == []


@pytest.mark.parametrize("told", ["None", "1", "-5", "'2'"])
def test_a_new_client_has_a_number_of_its_own(
    daemon: PrivateDaemon, program: Program, guests: Guests, make_guest: MakeGuest, told: str
) -> None:
    """A client in whose place another one is counted would be neither listed nor ever closed."""
    program.install_lockd_after(f"server['next_client_id'] = {told}")
    upgrade(daemon)
    newcomer = make_guest()
    for guest in (guests.spoilt, guests.spared, newcomer):
        guest.kill()
        guest.drop_connection()
    wait_until(lambda: locks_on(guests.disk) == locks_on(guests.other_disk) == [], "both locks end")
    with StatusConnection.connect(daemon.admin_socket) as status:
        wait_until(lambda: status.daemon()["clients"] == 0, "no client is counted")
    assert "Traceback" not in said(daemon)


@pytest.mark.parametrize(
    "code",
    [
        "server['services'] = []",
        "server['services'][0]['socks'] = []",
        "os.close(server['services'][0]['socks'][0]['fd'])",
        "os.dup2(0, server['services'][0]['socks'][0]['fd'])",
    ],
)
def test_a_lost_listening_socket_is_made_again(
    daemon: PrivateDaemon, program: Program, guests: Guests, code: str
) -> None:
    """The daemon makes new sockets.

    A client that was about to connect gets an error, and does not wait for ever.
    """
    program.install_lockd_after(code)
    upgrade_to_new_sockets(daemon)
    guests.spared_is_served()
    program.install("lockd")
    upgrade(daemon)
    guests.spared_is_served()


@pytest.mark.parametrize(
    "text", ["max_clients = many\n", "=\n", "log_outputs = nonsense\n", 'log_filters = "x"\n']
)
def test_a_broken_configuration_is_replaced_by_the_default(
    daemon: PrivateDaemon, guests: Guests, text: str
) -> None:
    (daemon.directory / "virtlockd.conf").write_text(text)
    upgrade(daemon)
    guests.spared_is_served()
    assert "the daemon goes on with the default configuration" in said(daemon)


def test_a_missing_configuration_does_not_stop_an_upgrade(daemon: PrivateDaemon, guests: Guests) -> None:
    (daemon.directory / "virtlockd.conf").unlink()
    upgrade(daemon)
    guests.spared_is_served()


# The state of another process is never used. These programs write one before the daemon starts.

_AT_START = """
import json, os, socket, sys
from lockd.libvirt.addresses import own_addresses
path = own_addresses().state_file
path.parent.mkdir(parents=True, exist_ok=True)
disk = os.open(sys.argv[1], os.O_RDWR)
listener = socket.socket(socket.AF_UNIX)
servers = {{name: {{"clients": [], "services": [{{"socks": [{{"fd": 99, "unlinkUNIX": True}}]}}]}} for name in ("admin", "virtlockd")}}
resource = {{"name": sys.argv[1], "path": sys.argv[1], "fd": disk, "flags": 0, "lockHeld": True, "owners": [1]}}
state = {{"magic": str(os.getpid()), "daemon": {{"servers": servers}}, "lockspaces": [],
         "defaultLockspace": {{"resources": [resource]}}}}
{code}
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize(
    "code",
    [
        # Left by an earlier virtlockd with the same pid.
        "path.write_text(json.dumps(state))",
        # Left by an earlier lockd with the same pid.
        "path.write_text(json.dumps({**state, 'lockd': {'process': 'other'}}))",
        "path.write_text(json.dumps({**state, 'lockd': {}}))",
        "state['magic'] = '1'; path.write_text(json.dumps(state))",
        "path.write_text('{{')",
        "path.write_text('[]')",
        "path.write_text('')",
        "path.write_bytes(bytes(range(256)))",
        "path.mkdir()",
        "os.mkfifo(path)",
    ],
)
def test_a_state_of_another_process_is_not_used(tmp_path: Path, disk: Path, code: str) -> None:
    wrapper = [sys.executable, "-c", _AT_START.format(code=code), str(disk)]
    with private_daemon(tmp_path / "daemon", wrapper=wrapper) as daemon, Guest(daemon.socket) as guest:
        assert answers(daemon)
        assert locks_on(disk) == []
        guest.acquire(disk)


@pytest.fixture
def disk(make_disk: MakeDisk) -> Path:
    return make_disk()


# The process has written this state itself, but the file was tampered with: it must not be used either.
@pytest.mark.parametrize(
    "code",
    [
        "path.write_text(json.dumps(state)); os.rename(path, f'{path}.x'); os.symlink(f'{path}.x', path); os.execv(lockd, sys.argv)",
        "os.chown(path, 1, 1); os.execv(lockd, sys.argv)",
    ],
)
def test_a_state_file_that_is_a_link_or_of_another_user_is_not_used(
    daemon: PrivateDaemon, program: Program, guests: Guests, code: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file to another user needs root")
    program.install_lockd_after(f"lockd = {str(LOCKD)!r}\n{code}")
    upgrade_to_new_sockets(daemon)
    with StatusConnection.connect(daemon.admin_socket) as status:
        assert list(status.locks()) == []
    # The owners of the locks are unknown: each lock stays until the daemon ends, and nobody else gets it.
    with Guest(daemon.socket) as another:
        for disk in (guests.disk, guests.other_disk):
            with pytest.raises(Refused, match="is locked by a daemon before this one, whose state is lost"):
                another.acquire(disk)
            assert f"{disk}: its lock is kept, and nobody gets it" in said(daemon)
            assert locks_on(disk) == [KernelLock("WRITE", daemon.pid)]
