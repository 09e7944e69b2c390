"""lockctl run and lockctl acquire: hold locks for as long as a command runs, or a script needs them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.ctl.conftest import Host, host_with
from tests.kernel_locks import KernelLock, locks_on
from tests.private_daemon import VIRTLOCKD
from tests.waiting import wait_until


def held(host: Host, mode: str = "WRITE") -> list[KernelLock]:
    return [KernelLock(mode, host.daemon.pid)]


# run


def test_the_command_holds_the_lock_for_as_long_as_it_lives(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder(disk) as holder:
        assert locks_on(disk) == held(host)
        holder.kill()
        wait_until(lambda: not locks_on(disk), "the end of the killed command's lock")


def test_the_command_is_the_process_that_lockctl_was(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder(disk) as holder:
        comm = Path(f"/proc/{holder.pid}/comm")
        wait_until(lambda: comm.read_text() == "cat\n", "the shell to run cat with exec")
        assert f"(pid {holder.pid})" in host.lockctl("who", disk)


def test_run_ends_with_the_exit_status_of_the_command(host: Host) -> None:
    disk = host.disk("disk")
    assert host.lockctl("run", disk, "--", "sh", "-c", "echo out; exit 7", status=7) == "out\n"
    wait_until(lambda: locks_on(disk) == [], "the end of the ended command's lock")


def test_a_held_disk_is_busy_and_its_holder_is_named(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder(disk) as holder:
        printed = host.lockctl("run", disk, "--", "true", status=75)
        assert printed == f'lockctl: {disk} is locked by domain "sh" (pid {holder.pid})\n'


def test_all_disks_are_taken_or_none(host: Host) -> None:
    free, taken, last = (host.disk(name) for name in ("a-free", "b-taken", "c-last"))
    with host.holder(taken):
        host.lockctl("run", free, taken, last, "--", "true", status=75)
        assert locks_on(free) == []
        assert locks_on(last) == []


def test_a_disk_that_is_named_twice_is_one_lock(host: Host) -> None:
    disk = host.disk("disk")
    host.lockctl("run", disk, f"{disk.parent}/./disk", "--", "true")


def test_shared_locks_are_shared(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder("--shared", disk), host.holder("--shared", disk):
        assert locks_on(disk) == held(host, "READ")
        host.lockctl("run", disk, "--", "true", status=75)


def test_run_waits_for_the_holder_as_long_as_its_option_says(host: Host) -> None:
    disk = host.disk("disk")
    with host.holder(disk) as holder:
        began = time.monotonic()
        host.lockctl("run", "--wait", "0.5", disk, "--", "true", status=75)
        assert time.monotonic() - began >= 0.5
        waiting = subprocess.Popen(
            host.command("run", "--wait", "30", disk, "--", "echo", "got it"),
            stdout=subprocess.PIPE,
            text=True,
            env=host.environment,
        )
        holder.kill()
        assert waiting.communicate(timeout=20)[0] == "got it\n"


def test_a_lease_file_is_made_and_removed(host: Host) -> None:
    leases = host.lockspace()
    disk = host.disk("disk")
    with host.holder(disk):
        (lease,) = leases.iterdir()
        assert locks_on(lease) == held(host)
        assert locks_on(disk) == []
    wait_until(lambda: not list(leases.iterdir()), "the removal of the lease file")


def test_the_command_may_use_the_descriptors_that_scripts_use(host: Host) -> None:
    disk = host.disk("disk")
    script = 'for n in 3 4 5 6 7 8 9; do eval "exec $n</dev/null $n<&-"; done; echo up; exec cat'
    with host.holder(disk, command=("sh", "-c", script)) as holder:
        time.sleep(0.3)  # longer than the daemon waits before it kills an owner that dropped its connection
        assert holder.poll() is None
        assert locks_on(disk) == held(host)


def test_the_command_does_not_ignore_sigpipe(host: Host) -> None:
    """Python ignores SIGPIPE, and a command would inherit that."""
    disk = host.disk("disk")
    ignored = host.lockctl("run", disk, "--", "sh", "-c", "grep SigIgn /proc/$$/status")
    alone = subprocess.run(
        ["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True, check=True
    )
    assert ignored == alone.stdout
    assert int(ignored.split()[1], 16) & 1 << (signal.SIGPIPE - 1) == 0


def test_a_command_that_cannot_be_run_leaves_no_lock(host: Host) -> None:
    disk = host.disk("disk")
    assert "there is no such command" in host.lockctl("run", disk, "--", "no-such-command", status=127)
    assert "a command is missing" in host.lockctl("run", disk, "--", status=2)
    assert "a command is missing" in host.lockctl("run", disk, status=2)
    host.lockctl("run", "--", "true", status=2)
    broken = host.disk("broken")
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    assert "Exec format error" in host.lockctl("run", disk, "--", broken, status=126)
    wait_until(lambda: not locks_on(disk), "the end of the lock")


def test_a_missing_disk_is_reported_in_one_line(host: Host) -> None:
    missing = host.directory / "missing"
    printed = host.lockctl("run", missing, "--", "true", status=74)
    assert printed.startswith(f"lockctl: {missing}: ")
    assert "No such file or directory" in printed


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_a_wait_is_a_number_of_seconds(host: Host, seconds: str) -> None:
    assert "not a number of seconds" in host.lockctl("run", f"--wait={seconds}", "/x", "--", "true", status=2)


@pytest.mark.skipif(os.geteuid() != 0, reason="virtlockd needs a /run of its own here, which needs root")
def test_virtlockd_gives_locks_too(tmp_path: Path) -> None:
    if not VIRTLOCKD.exists():
        pytest.skip(f"{VIRTLOCKD} is not there")
    with host_with(tmp_path, VIRTLOCKD) as host:
        disk = host.disk("disk")
        with host.holder(disk):
            assert locks_on(disk) == held(host)
            assert "is locked by somebody" in host.lockctl("run", disk, "--", "true", status=75)


# Disks that are in use without their locks


@contextmanager
def opener(disk: Path, way: str, name: str = "qemu-system-x86_64") -> Iterator[int]:
    """Run a program of the given name, as QEMU with a guest, that has the disk open; give its pid."""
    program = disk.parent / name
    if not program.exists():
        program.symlink_to("/bin/sh")
    script = f"exec 3{way}'{disk}'; echo up; read _"
    guest = ["-name", "guest=vm7,debug-threads=on"] if name.startswith("qemu") else []
    with subprocess.Popen(
        [program, "-c", script, *guest], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize(("way", "word"), [("<>", "writing"), (">>", "writing"), ("<", "reading")])
@pytest.mark.parametrize("leases", [False, True])
def test_a_disk_that_a_guest_without_the_lock_has_open_is_refused(
    host: Host, way: str, word: str, leases: bool
) -> None:
    """A paused guest writes to its disk again when it goes on, and a running one reads its backing file."""
    if leases:
        host.lockspace()
    disk, free = host.disk("disk"), host.disk("a-free-disk")
    with opener(disk, way) as pid:
        commands: list[list[str | Path]] = [["run", free, disk, "--", "true"], ["acquire", free, disk]]
        for command in commands:
            told = host.lockctl(*command, status=75)
            who = f'domain "vm7" (qemu-system-x86, pid {pid})'
            assert told.startswith(
                f"lockctl: {disk} is open for {word} in {who}, which does not hold its lock"
            )
            assert "--force" in told
        assert locks_on(disk) == locks_on(free) == []
        with host.holder("--force", disk):
            assert leases or locks_on(disk) == held(host)
    host.lockctl("run", free, disk, "--", "true")


def test_a_link_to_a_disk_that_a_guest_has_open_is_refused(host: Host) -> None:
    disk = host.disk("disk")
    link = disk.with_name("link")
    link.hardlink_to(disk)
    with opener(link, "<"):
        host.lockctl("run", disk, "--", "true", status=75)


def test_a_writer_that_is_no_guest_is_refused_and_a_reader_is_not(host: Host) -> None:
    disk = host.disk("disk")
    with opener(disk, "<>", "writer") as pid:
        told = host.lockctl("run", disk, "--", "true", status=75)
        assert f"is open for writing in process writer (pid {pid})" in told
    with opener(disk, "<", "backup"):
        host.lockctl("run", disk, "--", "true")


@pytest.mark.skipif(os.geteuid() != 0, reason="virtlockd needs a /run of its own here, which needs root")
def test_the_daemon_itself_is_no_other_user_of_the_disk(tmp_path: Path) -> None:
    """lockctl knows virtlockd by its pid file, or else by its name."""
    if not VIRTLOCKD.exists():
        pytest.skip(f"{VIRTLOCKD} is not there")
    with host_with(tmp_path, VIRTLOCKD) as host:
        disk = host.disk("disk")
        host.lockctl("run", disk, "--", "true")
        host.daemon.run_inside("rm", "/run/virtlockd.pid")
        host.lockctl("run", disk, "--", "true")
        with opener(disk, "<>") as pid:
            assert f"pid {pid}" in host.lockctl("run", disk, "--", "true", status=75)


def test_a_disk_is_shared_with_readers_and_with_owners_that_write(host: Host) -> None:
    disk = host.disk("disk")
    with opener(disk, "<"):
        host.lockctl("run", "--shared", disk, "--", "true")
    qemu = disk.with_name("qemu-guest")
    qemu.symlink_to("/bin/sh")
    writing = (str(qemu), "-c", f"exec 3<>'{disk}'; echo up; read _", "-name", "guest=vm8")
    with host.holder("--shared", disk, command=writing):
        host.lockctl("run", "--shared", disk, "--", "true")
    with opener(disk, "<>"):
        host.lockctl("run", "--shared", disk, "--", "true", status=75)


def test_run_waits_for_the_end_of_a_guest_without_the_lock_and_leaves_it_the_lock(host: Host) -> None:
    disk = host.disk("disk")
    with ExitStack() as stack:
        stack.enter_context(opener(disk, "<>"))
        waiting = subprocess.Popen(
            host.command("run", "--wait", "30", disk, "--", "echo", "got it"),
            stdout=subprocess.PIPE,
            text=True,
            env=host.environment,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        with host.holder("--force", disk):
            assert locks_on(disk) == held(host)
    assert waiting.communicate(timeout=20)[0] == "got it\n"


# acquire


def acquiring(host: Host, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start lockctl acquire, and return once it holds its locks."""
    process = subprocess.Popen(
        host.command("acquire", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=host.environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_acquire_holds_until_its_input_ends(host: Host) -> None:
    disk = host.disk("disk")
    with acquiring(host, disk) as process:
        assert process.stdin is not None
        process.stdin.write("not the end\n")
        process.stdin.flush()
        assert locks_on(disk) == held(host)
        process.stdin.close()
        assert process.wait(15) == 0
        assert locks_on(disk) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_acquire_holds_until_a_signal_comes(host: Host, number: signal.Signals) -> None:
    disk = host.disk("disk")
    with acquiring(host, "--shared", disk) as process:
        assert locks_on(disk) == held(host, "READ")
        process.send_signal(number)
        assert process.wait(15) == 0
        assert locks_on(disk) == []


def test_acquire_releases_if_its_input_cannot_be_read(host: Host) -> None:
    disk = host.disk("disk")
    command = host.command("acquire", disk)
    with open(os.devnull, "w", encoding="ascii") as unreadable:
        ended = subprocess.run(
            command,
            stdin=unreadable,
            capture_output=True,
            text=True,
            env=host.environment,
            timeout=60,
            check=False,
        )
    reason = "lockctl: standard input cannot be read: Bad file descriptor; the locks are released\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (74, "held\n", reason)
    assert locks_on(disk) == []


def test_acquire_says_that_the_daemon_has_ended(host: Host) -> None:
    with acquiring(host, host.disk("disk")) as process:
        host.daemon.process.kill()
        assert process.wait(15) == 74
        assert process.stderr is not None
        assert process.stderr.read() == "lockctl: the daemon ended, and the locks with it\n"


def test_acquire_names_the_holder_too(host: Host) -> None:
    disk = host.disk("disk")
    with acquiring(host, disk) as process:
        expected = f'lockctl: {disk} is locked by domain "lockctl acquire" (pid {process.pid})\n'
        assert host.lockctl("acquire", disk, status=75) == expected
        process.kill()


def test_acquire_works_as_a_coprocess_of_bash(host: Host) -> None:
    disk = host.disk("disk")
    script = (
        f"coproc {' '.join(host.command('acquire', disk))}\n"
        'read -r held <&"${COPROC[0]}" || exit 1\n'
        f"{sys.executable} -c 'print(open(\"/proc/locks\").read())' | grep -c ':{disk.stat().st_ino} 0 0'\n"
        'kill "$COPROC_PID"; wait "$COPROC_PID"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=host.environment, timeout=30, check=False
    )
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
    assert locks_on(disk) == []
