"""The client library, and so lockctl, names a disk's lock as libvirt's plugin does in its recorded calls."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd.wire.lock import AcquireFlags
from tests.libvirt.conftest import new_host
from tests.libvirt.guest import Disk, Guest
from tests.libvirt.host import Host
from tests.libvirt.recorder import Recorder, ResourceArguments, recording_daemon

pytestmark = pytest.mark.system

# Replaces lvs and scsi_id, which need devices that a test machine does not have. For each disk there may be a
# file of shell commands that it runs. Without one it fails, as lvs fails for a disk that is no volume, and
# scsi_id for one that is no SCSI disk.
_TOOL = """#!/bin/sh
for disk; do :; done
answer={answers}/$(basename "$disk").{tool}
[ -e "$answer" ] && . "$answer"
exit 5
"""
_TOOLS = {"lvs": "/usr/sbin/lvs", "scsi_id": "/lib/udev/scsi_id"}

# Name of a disk, the commands that lvs and scsi_id run for it, and the setting that names its lockspace.
_DEVICES = [
    ("volume", "echo '  AbCdEf-0000'; exit 0", "", "lvm"),
    ("volume-two-lines", "printf '  A B \\nC\\n'; exit 0", "", "lvm"),
    ("volume-after-a-line", "printf '\\n\\tAbC \\n'; exit 0", "", "lvm"),
    ("volume-without-a-line-end", "printf AbC; exit 0", "echo SCSI; exit 0", "lvm"),
    ("volume-printed-in-failure", "echo '  AbC'; exit 5", "echo SCSI; exit 0", "lvm"),
    ("volume-empty", "exit 0", "echo SCSI; exit 0", "scsi"),
    ("volume-blank", "echo '   '; exit 0", "echo SCSI; exit 0", "scsi"),
    ("scsi", "", "printf '36 00\\nB\\n'; exit 0", "scsi"),
    ("scsi-indented", "", "echo '  3600'; exit 0", "scsi"),
    ("scsi-printed-in-failure", "", "echo 3600; exit 1", "scsi"),
    ("scsi-empty", "", "exit 0", "file"),
    ("scsi-after-a-line", "", "printf '\\n3600\\n'; exit 0", "file"),
    ("neither", "", "", "file"),
]
_ALL = ("lvm_lockspace_dir", "scsi_lockspace_dir", "file_lockspace_dir")
_DISKS_OF_A_GUEST = 6

_NAME = """
import sys
from lockd.client.naming import resource_of
from lockd.client.plugin_config import read_plugin_config
resource = resource_of(sys.argv[1], read_plugin_config())
print(resource.lockspace, resource.name, resource.autocreate, sep="\\0", end="")
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host() as host:
        for directory in ("answers", "tools"):
            (host.directory / directory).mkdir()
        for tool, path in _TOOLS.items():
            stand_in = host.directory / "tools" / tool
            stand_in.write_text(_TOOL.format(answers=host.directory / "answers", tool=tool))
            stand_in.chmod(0o755)
            # Debian's lvs is a symbolic link: the bind mount replaces its target.
            if host.run_as_root("test", "-e", path, check=False).returncode:
                pytest.skip(f"{path} is not there to be replaced")
            host.run_as_root("mount", "--bind", str(stand_in), path)
        yield host


@pytest.fixture
def devices() -> Iterator[Path]:
    """A directory below /dev: the plugin takes files below /dev for devices."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="lockd-") as directory:
        yield Path(directory)


def _configure(host: Host, *settings: str) -> None:
    lines = [f'{key} = "{host.directory}/{key[:-4]}"\n' for key in settings]
    (host.configuration / "qemu-lockd.conf").write_text("".join(lines))


def _named_by_lockd(host: Host, disk: Path) -> ResourceArguments:
    done = host.run_as_root(sys.executable, "-c", _NAME, str(disk))
    lockspace, name, autocreate = done.stdout.split("\0")
    flags = AcquireFlags.AUTOCREATE if autocreate == "True" else AcquireFlags(0)
    return ResourceArguments(lockspace, name, flags)


def _named_by_libvirt(host: Host, recorder: Recorder, *disks: Disk) -> list[ResourceArguments]:
    """Return what libvirt acquires for the disks, in their order."""
    acquired = []
    for number in range(0, len(disks), _DISKS_OF_A_GUEST):
        recorder.acquired.clear()
        guest = Guest(host, "guest", *disks[number : number + _DISKS_OF_A_GUEST])
        guest.create()
        guest.destroy()
        acquired += recorder.acquired
    return acquired


@pytest.mark.parametrize("settings", [_ALL, _ALL[:2], _ALL[1:], _ALL[::2]], ids=" ".join)
def test_a_disk_below_dev_has_the_name_that_libvirt_asks_for(
    host: Host, devices: Path, settings: tuple[str, ...]
) -> None:
    _configure(host, *settings)
    disks = []
    for name, lvs, scsi_id, _ in _DEVICES:
        disks.append(devices / name)
        disks[-1].write_bytes(bytes(1 << 20))
        for tool, answer in (("lvs", lvs), ("scsi_id", scsi_id)):
            (host.directory / "answers" / f"{name}.{tool}").write_text(f"{answer}\n")
    named = [_named_by_lockd(host, disk) for disk in disks]
    with recording_daemon(host.sockets / "virtlockd-sock") as recorder:
        host.start_libvirtd()
        assert _named_by_libvirt(host, recorder, *map(Disk, disks)) == named
    if settings == _ALL:
        places = [f"{host.directory}/{place}_lockspace" for *_, place in _DEVICES]
        assert [resource.lockspace for resource in named] == places


@pytest.mark.parametrize("settings", [(), _ALL[2:]], ids=["disk images", "lease files"])
def test_an_image_has_the_name_that_libvirt_asks_for(host: Host, settings: tuple[str, ...]) -> None:
    _configure(host, *settings)
    # libvirt uses the path in the guest's definition: a link is another disk than its target.
    link = host.images / "link"
    link.symlink_to(host.make_image("target"))
    images = [host.make_image("image"), host.make_image("ümläut"), link]
    named = [_named_by_lockd(host, image) for image in images]
    shared = [resource._replace(flags=resource.flags | AcquireFlags.SHARED) for resource in named]
    with recording_daemon(host.sockets / "virtlockd-sock") as recorder:
        host.start_libvirtd()
        assert _named_by_libvirt(host, recorder, *map(Disk, images)) == named
        assert _named_by_libvirt(host, recorder, *(Disk(image, shareable=True) for image in images)) == shared


def test_if_a_program_is_killed_neither_libvirt_nor_lockd_names_the_disk(host: Host, devices: Path) -> None:
    _configure(host, *_ALL)
    with recording_daemon(host.sockets / "virtlockd-sock") as recorder:
        host.start_libvirtd()
        disk = devices / "disk"
        disk.write_bytes(bytes(1 << 20))
        (host.directory / "answers" / "disk.lvs").write_text("kill -KILL $$")
        assert "fatal signal 9" in Guest(host, "killed", Disk(disk)).try_to_create()
        assert recorder.acquired == []
        named = host.run_as_root(sys.executable, "-c", _NAME, str(disk), check=False)
        assert "NamingError" in named.stderr
