"""make install and make uninstall: on a host with libvirt and running guests, and below DESTDIR."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.systemd.machine import Machine, make, make_install

_PROJECT = Path(__file__).parents[2]


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with lockd installed below it, which tests do not change."""
    destination = tmp_path_factory.mktemp("destination")
    make_install(destination)
    return destination


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    """A directory with lockd installed below it, which a test may change."""
    make_install(tmp_path)
    return tmp_path


def test_nothing_names_the_directory_it_was_installed_below(installed: Path) -> None:
    found = subprocess.run(["grep", "-rlF", str(installed), str(installed)], capture_output=True, check=False)
    assert found.stdout == b""
    links = [path for path in installed.rglob("*") if path.is_symlink()]
    assert [path for path in links if str(installed) in os.readlink(path)] == []


def test_programs_units_configuration_and_manual_are_there(installed: Path) -> None:
    assert {
        "etc/libvirt/qemu-lockd.conf",
        "etc/libvirt/virtlockd.conf",
        "usr/local/bin/lockctl",
        "usr/local/lib/systemd/system/virtlockd-admin.socket",
        "usr/local/lib/systemd/system/virtlockd.service",
        "usr/local/lib/systemd/system/virtlockd.socket",
        "usr/local/lib/systemd/user/virtlockd-admin.socket",
        "usr/local/lib/systemd/user/virtlockd.service",
        "usr/local/lib/systemd/user/virtlockd.socket",
        "usr/local/sbin/virtlockd",
        "usr/local/share/bash-completion/completions/lockctl",
        "usr/local/share/fish/vendor_completions.d/lockctl.fish",
        "usr/local/share/man/man1/lockctl.1",
        "usr/local/share/man/man5/qemu-lockd.conf.5",
        "usr/local/share/man/man5/virtlockd.conf.5",
        "usr/local/share/man/man8/virtlockd.8",
        "usr/local/share/zsh/site-functions/_lockctl",
    } <= _files(installed)


def test_units_are_where_systemd_looks_and_name_the_installed_program(tmp_path: Path) -> None:
    make_install(tmp_path, "PREFIX=/opt/lockd")
    for units in ("system", "user"):
        unit = (tmp_path / "usr/local/lib/systemd" / units / "virtlockd.service").read_text()
        assert "\nExecStart=/opt/lockd/sbin/virtlockd " in unit
    assert (tmp_path / "opt/lockd/sbin/virtlockd").readlink() == Path("/opt/lockd/lib/lockd/bin/virtlockd")


def test_installed_again_it_overwrites_no_configuration(destination: Path) -> None:
    ours = destination / "etc/libvirt/virtlockd.conf"
    ours.write_text("max_clients = 7\n")
    make_install(destination)
    assert ours.read_text() == "max_clients = 7\n"


def test_uninstall_leaves_the_configuration_only(destination: Path) -> None:
    make("uninstall", f"DESTDIR={destination}")
    assert _files(destination) == {"etc/libvirt/qemu-lockd.conf", "etc/libvirt/virtlockd.conf"}


def test_program_of_the_distribution_is_not_overwritten(tmp_path: Path) -> None:
    theirs = tmp_path / "usr/sbin/virtlockd"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("libvirt's\n")
    with pytest.raises(AssertionError, match="/usr/sbin/virtlockd is libvirt's own"):
        make_install(tmp_path, "PREFIX=/usr")
    assert _files(tmp_path) == {"usr/sbin/virtlockd"}


@pytest.mark.parametrize(
    "page", sorted((_PROJECT / "docs" / "man").glob("*.rst")), ids=lambda page: page.stem
)
def test_manual_page_is_well_formed(installed: Path, page: Path) -> None:
    name, section = page.stem.rsplit(".", 1)
    shown_page = installed / f"usr/local/share/man/man{section}/{page.stem}"
    shown = subprocess.run(
        ["man", "--warnings", "--local-file", str(shown_page)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "MANWIDTH": "80"},
        check=True,
    )
    assert shown.stderr == ""
    assert f"{name}({section})" in shown.stdout


@pytest.mark.system
def test_guests_keep_their_locks_while_lockd_is_installed(libvirt_machine: Machine) -> None:
    machine = libvirt_machine
    image = machine.make_image("disk")
    with machine.holder("vm1", image) as holder:
        holder.ask("acquire")
        virtlockd = machine.main_pid
        make_install(machine.root)
        machine.run("systemctl", "daemon-reload")
        assert machine.unit_property("DropInPaths").endswith("virtlockd.service.d/lockd.conf")
        assert machine.lock_holders(image) == [machine.main_pid] == [virtlockd]
        # libvirt's daemon does not feed a watchdog, so the unit must not have one yet: it would kill the
        # daemon.
        assert machine.unit_property("WatchdogUSec") in ("0", "infinity")
    machine.run("systemctl", "restart", "virtlockd.service")
    with machine.holder("vm1", image) as holder:
        assert holder.ask("acquire") == "held"
        program = (machine.root / "proc" / str(machine.main_pid) / "cmdline").read_bytes().decode()
        assert "/usr/local/lib/lockd/" in program


@pytest.mark.system
def test_guests_keep_their_locks_while_lockd_is_upgraded(machine: Machine) -> None:
    image = machine.make_image("disk")
    with machine.holder("vm1", image) as holder:
        holder.ask("acquire")
        pid = machine.main_pid
        make_install(machine.root)
        machine.run("systemctl", "daemon-reload")
        assert machine.lock_holders(image) == [pid]
        machine.reload()
        assert machine.lock_holders(image) == [machine.main_pid] == [pid]
        assert holder.ask("release") == "released"


@pytest.mark.system
def test_uninstall_gives_the_service_back_to_libvirt(libvirt_machine: Machine) -> None:
    machine = libvirt_machine
    configuration = machine.root / "etc/libvirt/virtlockd.conf"
    theirs = configuration.read_text()
    make_install(machine.root)
    make("uninstall", f"DESTDIR={machine.root}")
    machine.run("systemctl", "daemon-reload")
    assert machine.unit_property("DropInPaths") == ""
    assert configuration.read_text() == theirs
    image = machine.make_image("disk")
    with machine.holder("vm1", image) as holder:
        assert holder.ask("acquire") == "held"
        assert (machine.root / "proc" / str(machine.main_pid) / "exe").readlink() == Path(
            "/usr/sbin/virtlockd"
        )


@pytest.mark.system
def test_the_steps_of_the_readme_work(own_units_layers: list[Path]) -> None:
    """Run the commands of the README's section Install. The fixture has already run its make install."""
    readme = (_PROJECT / "README.md").read_text()
    section = re.search(r"^## Install\n(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    assert section is not None
    blocks = re.findall(r"^```\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    install, *commands = "".join(blocks).splitlines()
    assert install.startswith("make install")
    with Machine(own_units_layers) as machine:
        for command in commands:
            machine.run("sh", "-ec", command)
        with machine.holder("vm1", machine.make_image("disk")) as holder:
            assert holder.ask("acquire") == "held"
            assert "vm1" in machine.run("lockctl", "status")
