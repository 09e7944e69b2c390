"""The system service: activation, live upgrade, watchdog, journal, stop, sandbox."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.systemd.machine import LOCK_SOCKET, Machine

pytestmark = pytest.mark.system

_PROGRAM = "/usr/local/lib/lockd/"


def test_first_connection_activates(any_machine: Machine, request: pytest.FixtureRequest) -> None:
    machine = any_machine
    image = machine.make_image("disk")
    assert machine.main_pid == 0
    with machine.holder("vm1", image) as holder:
        assert holder.ask("acquire") == "held"
        assert machine.lock_holders(image) == [machine.main_pid]
        assert machine.unit_property("ActiveState") == "active"
        program = (machine.root / "proc" / str(machine.main_pid) / "cmdline").read_bytes().decode()
        assert (_PROGRAM in program) == ("virtlockd" not in request.node.callspec.params.values()), program
    machine.wait_for(lambda: machine.lock_holders(image) == [], "release at the guest's end")


def test_reload_keeps_locks_clients_and_main_pid(any_machine: Machine) -> None:
    machine = any_machine
    image = machine.make_image("disk")
    with machine.holder("vm1", image) as holder:
        holder.ask("acquire")
        pid = machine.main_pid
        for _ in range(3):
            machine.reload()
            assert machine.lock_holders(image) == [pid]
            assert holder.ask("release") == "released"
            assert holder.ask("acquire") == "held"
        assert machine.main_pid == pid
        assert machine.unit_property("NRestarts") == "0"


def test_status_line_counts_guests_and_locks(machine: Machine) -> None:
    first, second = machine.make_image("first"), machine.make_image("second")
    with machine.holder("vm1", first) as one, machine.holder("vm2", second) as two:
        one.ask("acquire")
        two.ask("acquire")
        machine.wait_for(
            lambda: machine.unit_property("StatusText") == "2 guests, 2 locks",
            "the count in systemctl status",
        )
        two.ask("release")
        machine.wait_for(
            lambda: machine.unit_property("StatusText") == "2 guests, 1 lock", "the count after a release"
        )


def test_journal_entries_can_be_filtered(own_units_machine: Machine) -> None:
    machine = own_units_machine
    image = machine.make_image("disk")
    with machine.holder("vm1", image) as holder, machine.holder("vm2", image) as other:
        holder.ask("acquire")
        assert "vm1" in other.ask("acquire")
        holder.ask("release")
        other.ask("acquire")
        other.ask("release")
        by_first = machine.journal("LOCKD_OWNER_NAME=vm1", f"LOCKD_RESOURCE={image}")
        by_second = machine.journal("LOCKD_OWNER_NAME=vm2", f"LOCKD_RESOURCE={image}")
        acquired, released = by_first
        refused, acquired_too, released_too = by_second
        assert acquired["LOCKD_LOCKSPACE"] == ""
        assert acquired["LOCKD_OWNER_PID"] == str(holder.pid)
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", acquired["LOCKD_OWNER_UUID"])
        assert acquired["_SYSTEMD_UNIT"] == "virtlockd.service"
        assert acquired["MESSAGE_ID"] == acquired_too["MESSAGE_ID"]
        assert released["MESSAGE_ID"] == released_too["MESSAGE_ID"]
        assert len({entry["MESSAGE_ID"] for entry in (acquired, released, refused)}) == 3
        # A refusal names the holder of the lock.
        assert "vm1" in refused["MESSAGE"]
        assert all("\n" not in entry["MESSAGE"] for entry in by_first + by_second)


def test_journal_says_who_was_fenced_and_what_was_taken_over(own_units_machine: Machine) -> None:
    machine = own_units_machine
    image = machine.make_image("disk")
    with machine.holder("vm1", image) as holder:
        holder.ask("acquire")
        machine.reload()
        assert holder.ask("leave") == "left"
        machine.wait_for(lambda: machine.lock_holders(image) == [], "the end of the lock")
        assert holder.process.wait(timeout=15) == -signal.SIGTERM
    entries = machine.journal("LOCKD_OWNER_NAME=vm1")
    kinds = [entry["MESSAGE_ID"] for entry in entries]
    assert len(kinds) == len(set(kinds)) == 4, [entry["MESSAGE"] for entry in entries]  # taken over, fenced


def test_watchdog_restarts_a_daemon_that_is_stuck(machine: Machine) -> None:
    machine.override("WatchdogSec=1")
    machine.run("systemctl", "start", "virtlockd.service")
    pid = machine.main_pid
    machine.run("kill", "-STOP", str(pid))
    machine.wait_for(lambda: machine.main_pid not in (0, pid), "a new daemon")
    image = machine.make_image("disk")
    with machine.holder("vm1", image) as holder:
        assert holder.ask("acquire") == "held"


def test_watchdog_leaves_a_healthy_daemon_alone(own_units_machine: Machine) -> None:
    machine = own_units_machine
    machine.override("WatchdogSec=1")
    machine.run("systemctl", "start", "virtlockd.service")
    pid = machine.main_pid
    fed = machine.unit_property("WatchdogTimestampMonotonic")
    machine.wait_for(
        lambda: int(machine.unit_property("WatchdogTimestampMonotonic")) > int(fed) + 2_000_000,
        "the watchdog to be fed for two seconds",
    )
    assert machine.main_pid == pid


def test_daemon_comes_back_after_a_crash(own_units_machine: Machine) -> None:
    machine = own_units_machine
    machine.run("systemctl", "start", "virtlockd.service")
    pid = machine.main_pid
    machine.run("kill", "-KILL", str(pid))
    machine.wait_for(lambda: machine.main_pid not in (0, pid), "a new daemon")
    image = machine.make_image("disk")
    with machine.holder("vm1", image) as holder:
        assert holder.ask("acquire") == "held"


def test_stop_with_held_locks_is_warned_of(machine: Machine) -> None:
    image = machine.make_image("disk")
    with machine.holder("vm1", image) as holder:
        holder.ask("acquire")
        pid = machine.main_pid
        machine.run("systemctl", "stop", "virtlockd.service")
    assert machine.unit_property("Result") == "success"
    warnings = [entry["MESSAGE"] for entry in machine.journal(f"_PID={pid}", "--priority=warning")]
    assert warnings == [
        "the daemon ends while 1 lock is held; the disks of these owners are no longer protected: "
        f'domain "vm1" (pid {holder.pid})'
    ]


def test_stop_without_locks_warns_of_nothing(own_units_machine: Machine) -> None:
    machine = own_units_machine
    machine.run("systemctl", "start", "virtlockd.service")
    pid = machine.main_pid
    machine.run("systemctl", "stop", "virtlockd.service")
    assert machine.journal(f"_PID={pid}", "--priority=warning") == []


def test_idle_daemon_ends_and_comes_back(own_units_machine: Machine) -> None:
    machine = own_units_machine
    (machine.root / "etc/default/virtlockd").write_text("VIRTLOCKD_ARGS=--timeout=1\n")
    image = machine.make_image("disk")
    for _ in range(2):
        with machine.holder("vm1", image) as holder:
            assert holder.ask("acquire") == "held"
        machine.wait_for(lambda: machine.unit_property("ActiveState") == "inactive", "the idle daemon's end")
        assert machine.unit_property("Result") == "success"


def test_socket_that_is_stopped_takes_no_lock_with_it(own_units_machine: Machine) -> None:
    machine = own_units_machine
    image = machine.make_image("disk")
    with machine.holder("vm1", image) as holder:
        holder.ask("acquire")
        machine.run("systemctl", "stop", "virtlockd.socket")
        assert machine.lock_holders(image) == [machine.main_pid]
        assert holder.ask("release") == "released"
    assert not (machine.root / LOCK_SOCKET.removeprefix("/")).exists()


def test_sandbox_lets_any_disk_be_locked(machine: Machine) -> None:
    machine.run("useradd", "--create-home", "alice")
    with machine.holder("vm0", machine.make_image("first")) as first:
        assert first.ask("acquire") == "held"
        # The daemon runs already: a file system that is mounted now has to be visible to it, too.
        machine.run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
        for image in ("/home/alice/disk", "/tmp/disk", "/mnt/disk"):
            machine.run("install", "--owner=alice", "--mode=0", "/dev/null", image)
            with machine.holder("vm1", image) as holder:
                assert holder.ask("acquire") == "held", image


def test_sandbox_keeps_the_system_itself_out_of_reach(machine: Machine) -> None:
    with machine.holder("vm1", "/etc/passwd") as holder:
        assert holder.ask("acquire") == "Unable to open resource /etc/passwd: Read-only file system"
    status = (machine.root / "proc" / str(machine.main_pid) / "status").read_text()
    capabilities = {
        line.split()[0]: int(line.split()[1], 16) for line in status.splitlines() if line[:3] == "Cap"
    }
    dac_override, fowner, kill = 1 << 1, 1 << 3, 1 << 5
    assert capabilities["CapBnd:"] == dac_override | fowner | kill
    assert "\nSeccomp:\t2\n" in status
    assert "\nNoNewPrivs:\t1\n" in status


def test_units_are_well_formed(machine: Machine) -> None:
    units = ("virtlockd.service", "virtlockd.socket", "virtlockd-admin.socket")
    assert machine.run("systemd-analyze", "verify", "--man=no", *units) == ""


def test_exposure_is_what_the_documentation_says(machine: Machine) -> None:
    text = machine.run("systemd-analyze", "security", "--no-pager", "virtlockd.service")
    score = re.search(r"Overall exposure level for virtlockd.service: (\S+)", text)
    assert score is not None
    assert score[1] == "1.9", text


def test_sandbox_lets_block_devices_be_locked_and_no_other_device(machine: Machine) -> None:
    with _loop_device() as number:
        subprocess.run(["mknod", str(machine.root / "disk"), "b", *number], check=True)
        subprocess.run(["mknod", str(machine.root / "fuse"), "c", "10", "229"], check=True)
        with machine.holder("vm1", "/disk") as holder:
            assert holder.ask("acquire") == "held"
            assert machine.lock_holders("/disk") == [machine.main_pid]
    # The daemon itself refuses to open a character device. So another program tries, in the unit's control group.
    assert "Operation not permitted" in machine.run(
        "sh",
        "-c",
        """
        awk -F: '{print "/sys/fs/cgroup/" $2 $3 "/cgroup.procs"}' "/proc/$1/cgroup" |
            while read file; do if [ -w "$file" ]; then echo $$ >"$file"; fi; done
        exec head --bytes=0 /fuse
        """,
        "sh",
        str(machine.main_pid),
        check=False,
    )


@contextmanager
def _loop_device() -> Iterator[list[str]]:
    """Set up a loop device of this machine, and yield its major and minor number."""
    with tempfile.NamedTemporaryFile() as backing:
        backing.truncate(1 << 20)
        found = subprocess.run(
            ["losetup", "--find", "--show", backing.name], capture_output=True, text=True, check=False
        )
        if found.returncode != 0:
            pytest.skip(f"no loop device: {found.stderr}")
        device = found.stdout.strip()
        try:
            number = os.stat(device).st_rdev
            yield [str(os.major(number)), str(os.minor(number))]
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)
