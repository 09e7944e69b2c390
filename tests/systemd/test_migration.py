"""The steps of docs/migration.md, with a real systemd and Debian's libvirt, while a lock is held."""

import re
from pathlib import Path

import pytest

from tests.systemd.machine import Holder, Machine, make, make_install

pytestmark = pytest.mark.system

_DOCUMENT = Path(__file__).parents[2] / "docs" / "migration.md"

# lockctl recognizes a guest by such arguments of its process.
_AS_GUEST = ("sh", "-c", 'exec "$@" -name guest=vm1', "sh")


def commands(title: str) -> list[list[str]]:
    """Return the blocks of commands below a title of the document."""
    section = re.search(rf"^## {title}\n(.*?)^## ", _DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    blocks = re.findall(r"^```\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    return [block.splitlines() for block in blocks]


class Host:
    """A machine whose lock daemon is replaced while a guest runs."""

    def __init__(self, machine: Machine, image: str, holder: Holder) -> None:
        self.machine = machine
        self.image = image
        self.holder = holder
        self.pid = machine.main_pid

    def follow(self, *blocks: list[str]) -> None:
        for command in [command for block in blocks for command in block]:
            if command == "make install":
                make_install(self.machine.root)
            elif command == "make uninstall":
                make("uninstall", f"DESTDIR={self.machine.root}")
            elif command.startswith("systemctl reload"):
                self.machine.reload()
            else:
                self.machine.run("sh", "-ec", command)
            assert self.machine.main_pid == self.pid, command
            assert self.machine.lock_holders(self.image) == [self.pid], command

    def runs(self, name: str) -> None:
        """Assert that the daemon of the given name runs, and serves the guest."""
        shown = self.machine.run("lockctl", "migrate", "--check")
        assert shown.startswith(f"PASS running daemon: {name} (pid {self.pid})\n")
        assert self.holder.ask("release") == "released"
        assert self.machine.lock_holders(self.image) == []
        assert self.holder.ask("acquire") == "held"
        assert self.machine.lock_holders(self.image) == [self.pid]


def test_from_virtlockd_to_lockd_and_back(libvirt_machine: Machine) -> None:
    machine = libvirt_machine
    there, (back, _, remove) = commands("From virtlockd to lockd"), commands("Back to virtlockd")
    image = machine.make_image("disk")
    with machine.holder("vm1", image, prefix=_AS_GUEST) as holder:
        assert holder.ask("acquire") == "held"
        host = Host(machine, image, holder)
        host.follow(*there)
        host.runs("lockd")
        host.follow(back)
        host.runs("virtlockd")
        host.follow(remove)
    assert machine.run("dpkg-divert", "--list", "/usr/sbin/virtlockd") == ""
    assert "virtlockd (libvirt)" in machine.run("/usr/sbin/virtlockd", "--version")


def test_back_to_virtlockd_from_a_service_that_was_started_with_lockd(drop_in_layers: list[Path]) -> None:
    """virtlockd works in lockd's sandbox, and systemd does not kill it although it feeds no watchdog."""
    with Machine(drop_in_layers) as machine:
        machine.override("WatchdogSec=2")
        machine.run("systemctl", "--quiet", "enable", "--now", "virtlockd.socket", "virtlockd-admin.socket")
        image = machine.make_image("disk")
        with machine.holder("vm1", image, prefix=_AS_GUEST) as holder:
            assert holder.ask("acquire") == "held"
            host = Host(machine, image, holder)
            _, back, remove = commands("Back to virtlockd")
            host.follow(back)
            host.runs("virtlockd")
            machine.run("sleep", "5")
            host.runs("virtlockd")
            machine.run("ln", "-sfn", "/usr/local/lib/lockd/bin/virtlockd", "/usr/local/sbin/virtlockd")
            machine.reload()
            host.runs("lockd")
            machine.run("sleep", "5")
            host.runs("lockd")
            host.follow(back, remove)
