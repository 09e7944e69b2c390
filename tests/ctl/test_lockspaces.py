"""Lockspaces that libvirt does not make: from the configuration, and by lockctl lockspace."""

import errno
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.ctl.conftest import LOCKCTL, Host
from tests.private_daemon import PrivateDaemon, in_private_run, private_daemon
from tests.raw_client import AUTOCREATE, RawClient
from tests.trouble.hanging_filesystem import can_mount, mounted
from tests.waiting import wait_until


def upgrade(daemon: PrivateDaemon) -> None:
    before = daemon.running_image()
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: daemon.running_image() != before, "the upgrade")
    wait_until(daemon.serves, "the next program")


def setting(*paths: Path) -> str:
    return f"lockspaces = [ {', '.join(json.dumps(str(path)) for path in paths)} ]\n"


def test_a_lockspace_of_the_configuration_is_there_from_the_start(tmp_path: Path) -> None:
    """A <lease> in a guest's XML is acquired without a CREATE_LOCKSPACE before."""
    made, present = tmp_path / "new" / "leases", tmp_path / "present"
    present.mkdir()
    with private_daemon(tmp_path / "daemon", settings=setting(made, present)) as daemon:
        assert made.stat().st_mode & 0o777 == 0o700
        with RawClient(daemon) as client:
            for lockspace in (made, present):
                assert client.acquire("lease", lockspace, AUTOCREATE) is None
            upgrade(daemon)
            for lockspace in (made, present):
                assert client.release("lease", lockspace) is None
        assert daemon.log.read_text() == ""


def test_a_lockspace_that_is_new_in_the_configuration_is_made_by_an_upgrade(tmp_path: Path) -> None:
    with private_daemon(tmp_path / "daemon") as daemon:
        configuration = daemon.directory / "virtlockd.conf"
        configuration.write_text(setting(tmp_path / "leases") + configuration.read_text())
        upgrade(daemon)
        with RawClient(daemon) as client:
            assert client.acquire("lease", tmp_path / "leases", AUTOCREATE) is None


def test_a_lockspace_that_cannot_be_made_is_one_line_in_the_log(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    good = tmp_path / "good"
    paths = [file, file / "below", Path("relative"), good]
    with private_daemon(tmp_path / "daemon", settings=setting(*paths)) as daemon:
        lines = daemon.log.read_text().splitlines()
        assert len(lines) == 3
        for line, path in zip(lines, paths, strict=False):
            assert "a lockspace of the configuration is not available: " in line
            assert str(path) in line
        with RawClient(daemon) as client:
            assert client.acquire("lease", good, AUTOCREATE) is None


def test_the_start_does_not_wait_for_a_lockspace_on_a_file_server(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
    with mounted(tmp_path / "server") as server:
        server.hang("lookup", "mkdir")
        leases = server.path / "leases"
        with private_daemon(tmp_path / "daemon", settings=setting(leases)) as daemon:
            with RawClient(daemon) as client:
                assert "does not exist" in str(client.acquire("lease", leases, AUTOCREATE))
            server.wait_for("lookup")
            server.release_all()
            with RawClient(daemon) as client:
                wait_until(
                    lambda: client.acquire("lease", leases, AUTOCREATE) is None,
                    "the lockspace on the file server",
                )
                assert client.release("lease", leases) is None
        server.fail(mkdir=errno.EDQUOT)
        more = server.path / "more"
        with private_daemon(tmp_path / "other", settings=setting(more)) as daemon:
            words = f"is not available: Unable to create lockspace {more}: {os.strerror(errno.EDQUOT)}"
            wait_until(lambda: words in daemon.log.read_text(), "the line in the log")


@pytest.mark.parametrize("value", ['"/a"', "1", '[ "/a", 1 ]'])
def test_a_setting_that_is_no_list_of_texts_is_refused(host: Host, value: str) -> None:
    (host.configuration / "virtlockd.conf").write_text(f"\nlockspaces = {value}\n")
    told = host.lockctl("check", status=1)
    assert (
        'virtlockd.conf:2: lockspaces has to be a list of texts in quotes, like lockspaces = [ "..." ]'
        in told
    )


def test_lockctl_adds_and_lists_lockspaces(host: Host) -> None:
    assert host.lockctl("lockspace", "list") == ""
    first, second = host.directory / "first", f"{host.directory}//second/"
    assert host.lockctl("lockspace", "add", first, second) == ""
    assert host.lockctl("lockspace", "add", first) == ""
    assert host.lockctl("lockspace", "list") == f"{first}\n{second}\n"
    assert json.loads(host.lockctl("lockspace", "list", "--json")) == {"lockspaces": [str(first), second]}
    with RawClient(host.daemon) as client:
        assert client.acquire("lease", first, AUTOCREATE) is None
        assert client.acquire("lease", second, AUTOCREATE) is None
        upgrade(host.daemon)
        assert host.lockctl("lockspace", "list") == f"{first}\n{second}\n"


def test_lockctl_says_why_a_lockspace_cannot_be_added(host: Host) -> None:
    file = host.disk("file")
    told = host.lockctl("lockspace", "add", file, status=74)
    assert told.startswith(f"lockctl: {file}: ")
    assert told.endswith("exists, but is not a directory\n")
    assert host.lockctl("lockspace", "list") == ""
    assert "usage: lockctl lockspace" in host.lockctl("lockspace", status=2)


def test_lockspaces_of_no_daemon_are_not_listed(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    for action in (["list"], ["add", "/x"]):
        command, environment = in_private_run(directory, [str(LOCKCTL), "lockspace", *action])
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 69
        assert done.stderr.startswith("lockctl: ")
