"""lockctl check and metrics: what a host's administrator wants to know before, and all the time."""

import json
import os
import resource
import signal

import pytest

from lockd.client.connection import LockConnection
from lockd.client.resource import Resource
from tests.ctl.conftest import Host
from tests.outsider import Outsider
from tests.waiting import wait_until

IN_DOUBT = "locks in doubt"
HASH = "its hash, to be the same on all hosts"


def checked(host: Host, status: int = 0) -> dict[str, tuple[str, str]]:
    """What was found, by its subject."""
    found = json.loads(host.lockctl("check", "--json", status=status))
    return {entry["subject"]: (entry["result"], entry["detail"]) for entry in found["findings"]}


def test_a_host_that_is_set_up_right_passes(host: Host) -> None:
    leases = host.lockspace()
    (host.configuration / "qemu.conf").write_text('lock_manager = "lockd"\n')
    with host.holder(host.disk("disk")):
        found = checked(host)
        assert {result for subject, (result, _) in found.items() if "reach of" not in subject} == {"PASS"}
        assert found["lock daemon"][1].endswith(f"(pid {host.daemon.pid})")
        assert found["locks of the kernel"][1] == "agree on all 1"
        assert found[f"lockspace {leases}"][1] == "its files can be made and locked"
        # A temporary directory is on no file system that hosts share.
        assert found[f"reach of {leases}"][0] == "WARN"
        assert [path.name for path in leases.iterdir() if path.name.startswith(".")] == []


def test_every_line_of_text_begins_with_its_result(host: Host) -> None:
    host.lockspace()
    lines = host.lockctl("check").splitlines()
    assert len(lines) == len(checked(host))
    assert {line.split()[0] for line in lines} <= {"PASS", "WARN", "FAIL"}


def test_hosts_that_differ_have_another_hash(host: Host) -> None:
    before = checked(host)[HASH]
    (host.configuration / "qemu-lockd.conf").write_text("# a comment is no difference\n")
    assert checked(host)[HASH] == before
    host.lockspace()
    after = checked(host)[HASH]
    assert after != before
    assert json.loads(host.lockctl("check", "-J"))["configuration_hash"] == after[1]


@pytest.mark.parametrize(
    ("file", "text", "subject"),
    [
        ("qemu-lockd.conf", "file_lockspace_dir = /unquoted\n", "configuration of the locks"),
        ("virtlockd.conf", 'max_clients = "many"\n', "configuration of the daemon"),
        ("qemu.conf", "lock_manager\n", "lock manager of QEMU's driver"),
    ],
)
def test_a_mistake_in_a_file_fails(host: Host, file: str, text: str, subject: str) -> None:
    (host.configuration / file).write_text(text)
    result, detail = checked(host, status=1)[subject]
    assert result == "FAIL"
    assert f"{file}:1: " in detail


def test_what_keeps_libvirt_from_locking_is_a_warning(host: Host) -> None:
    (host.configuration / "qemu-lockd.conf").write_text("auto_disk_leases = 0\n")
    (host.configuration / "qemu.conf").write_text('lock_manager = "sanlock"\n')
    found = checked(host)
    assert found["configuration of the locks"][0] == "WARN"
    assert found["lock manager of QEMU's driver"][0] == "WARN"


def test_unprintable_characters_of_the_configuration_are_escaped(host: Host) -> None:
    leases = host.directory / "evil \x1b[31m \x9b31m \x85 \u202e \udcff"
    text = f'file_lockspace_dir = "{leases}"\n'
    (host.configuration / "qemu-lockd.conf").write_bytes(text.encode(errors="surrogateescape"))
    for arguments in ((), ("--json",)):
        printed = host.lockctl("check", *arguments, status=None)
        assert "evil" in printed
        assert printed.replace("\n", "").isprintable()


def test_a_lockspace_that_is_no_directory_fails(host: Host) -> None:
    leases = host.lockspace()
    assert checked(host)[f"lockspace {leases}"][0] == "WARN"
    leases.touch()
    assert checked(host, status=1)[f"lockspace {leases}"] == ("FAIL", "is not a directory")


def test_a_lockspace_that_cannot_be_written_fails(host: Host) -> None:
    leases = host.lockspace()
    leases.mkdir(mode=0o500)
    if os.geteuid() == 0:
        # Root may write everywhere but here.
        host.daemon.run_inside("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(leases))
    assert checked(host, status=1)[f"lockspace {leases}"][0] == "FAIL"


def test_limits_that_are_too_low_are_told(host: Host) -> None:
    _, hard = resource.prlimit(host.daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(host.daemon.pid, resource.RLIMIT_NOFILE, (1024, hard))
    result, detail = checked(host)["descriptors of the daemon"]
    assert result == "WARN"
    assert "LimitNOFILE" in detail


def test_a_daemon_that_is_not_there_fails(host: Host) -> None:
    host.daemon.stop()
    try:
        assert checked(host, status=1)["lock daemon"] == ("FAIL", "the daemon does not answer")
    finally:
        host.daemon.signal(signal.SIGCONT)


def test_a_lock_whose_file_was_removed_or_replaced_fails(host: Host) -> None:
    leases = host.directory / "leases"
    removed, replaced, taken, held = (host.disk(name) for name in ("removed", "replaced", "taken", "held"))
    with LockConnection.connect(host.daemon.socket) as connection, Outsider() as other:
        connection.register()
        connection.create_lockspace(str(leases))
        for disk in (removed, replaced, held):
            connection.acquire(Resource("", str(disk)))
        connection.acquire(Resource(str(leases), "removed", autocreate=True))
        connection.acquire(Resource("", str(taken), autocreate=True))
        assert checked(host)[IN_DOUBT] == ("PASS", "none of 5")
        assert measured(host)["lockd_locks_doubted"] == 0

        (leases / "removed").unlink()
        removed.rename(host.directory / "moved")
        for disk in (replaced, taken):
            disk.rename(f"{disk}.old")
            disk.touch()
        assert other.lock(taken, "WRITE")
        wait_until(lambda: measured(host)["lockd_locks_doubted"] == 4, "the daemon has noticed")
        result, detail = checked(host, status=1)[IN_DOUBT]
        assert result == "FAIL"
        assert f"{leases}/removed: the lock was lost, and taken again; " in detail
        assert f"{removed}: the path names no file any more; " in detail
        assert f"{replaced}: the path names another file than the locked one; " in detail
        assert f"{taken}: the lock was lost: Lockspace resource '{taken}' is locked" in detail
        assert str(held) not in detail
        remedy = "that the path names the file that its guest has open; then start the guest again"
        assert detail.endswith(remedy)

        for disk in (removed, replaced, taken):
            connection.release(Resource("", str(disk)))
        connection.release(Resource(str(leases), "removed"))
        assert checked(host)[IN_DOUBT] == ("PASS", "none of 1")
        assert measured(host)["lockd_locks_doubted"] == 0


# metrics


def measured(host: Host) -> dict[str, float]:
    lines = host.lockctl("metrics").splitlines()
    assert lines[-1] == "# EOF"
    return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


def test_counters_count(host: Host) -> None:
    leases, disk = host.lockspace(), host.disk("disk")
    with host.holder(disk):
        host.lockctl("run", disk, "--", "true", status=75)
        now = measured(host)
        assert now[f'lockd_locks{{lockspace="{leases}",mode="exclusive"}}'] == 1
        assert now['lockd_locks{lockspace="",mode="exclusive"}'] == 0
        assert now["lockd_acquires_total"] == now["lockd_acquire_seconds_count"] == 1
        assert now['lockd_acquire_seconds_bucket{le="+Inf"}'] == 1
        assert 0 < now["lockd_acquire_seconds_sum"] < 10
        assert now['lockd_refusals_total{reason="busy"}'] == 1
        assert now["lockd_clients"] == 1
        assert now["lockd_fencings_total"] == 0
    host.lockctl("run", host.directory / 'a\nb"c\\d', "--", "true")
    assert measured(host)["lockd_acquires_total"] == 2


def test_an_owner_that_is_killed_for_its_locks_is_counted(host: Host) -> None:
    drop = "exec 100<&-; echo up; sleep 60"  # the descriptor that lockctl run leaves to its command
    with host.holder(host.disk("disk"), command=("bash", "-c", drop)) as dropper:
        assert dropper.wait(15) == -signal.SIGTERM
    assert measured(host)["lockd_fencings_total"] == 1


def test_counters_survive_an_upgrade(host: Host) -> None:
    with host.holder(host.disk("disk")):
        before = host.daemon.running_image()
        host.daemon.signal(signal.SIGUSR1)
        wait_until(lambda: host.daemon.running_image() != before, "the upgrade")
        now = measured(host)
        assert (now["lockd_acquires_total"], now["lockd_upgrades_total"]) == (1, 1)
        assert "yes" in host.lockctl("status", "-o", "KERNEL")
