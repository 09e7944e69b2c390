"""Names of resources and lockspaces that lead to unexpected files.

In lockd, the name of a resource in a lockspace has to be the name of a file in its directory.
"""

from pathlib import Path

import pytest

from tests.differences.conftest import Scene
from tests.kernel_locks import KernelLock, locks_on
from tests.raw_client import AUTOCREATE


def test_virtlockd_makes_files_outside_of_the_lockspace(virtlockd: Scene) -> None:
    leases = virtlockd.leases()
    (leases / "a").mkdir()
    assert virtlockd.client.acquire("../outside", leases, AUTOCREATE) is None
    assert virtlockd.client.acquire("a/b", leases, AUTOCREATE) is None
    assert (virtlockd.directory / "outside").exists()
    assert (leases / "a" / "b").exists()


@pytest.mark.parametrize("name", [".", "..", ""])
def test_virtlockd_takes_the_directory_for_a_file(virtlockd: Scene, name: str) -> None:
    leases = virtlockd.leases()
    expected = f"Unable to open/create resource {leases}/{name}: Is a directory"
    assert virtlockd.client.acquire(name, leases, AUTOCREATE) == expected


@pytest.mark.parametrize("name", ["../outside", "a/b", ".", "..", "", "/absolute", "a/"])
def test_a_name_is_one_component(lockd: Scene, name: str) -> None:
    leases = lockd.leases()
    (leases / "a").mkdir()
    refusal = f"invalid argument: resource '{name}' is not the name of a file in lockspace {leases}"
    client = lockd.client
    assert client.acquire(name, leases, AUTOCREATE) == refusal
    assert client.create(name, leases) == refusal
    assert client.delete(name, leases) == refusal
    assert list(lockd.directory.rglob("*")) == [leases, leases / "a"]


def test_virtlockd_cuts_a_name_short_at_a_nul(virtlockd: Scene) -> None:
    leases = virtlockd.leases()
    assert virtlockd.client.acquire("short\0long", leases, AUTOCREATE) is None
    assert (leases / "short").exists()


def test_a_nul_is_refused(lockd: Scene) -> None:
    leases = lockd.leases()
    refusal = "invalid argument: resource name 'short\\x00long' has a NUL byte in it"
    assert lockd.client.acquire("short\0long", leases, AUTOCREATE) == refusal
    disk = lockd.disk()
    assert "has a NUL byte in it" in (lockd.client.acquire(f"{disk}\0") or "")
    assert "has a NUL byte in it" in (lockd.client.create_lockspace(f"{lockd.directory}/new\0") or "")
    assert list(leases.iterdir()) == []


def test_virtlockd_takes_relative_paths_from_its_own_directory(virtlockd: Scene) -> None:
    disk = virtlockd.disk()
    relative = f"proc/{virtlockd.daemon.pid}/root{disk}"
    in_root = Path(f"/proc/{virtlockd.daemon.pid}/cwd").readlink() == Path("/")
    relative = relative if in_root else "../" * len(Path.cwd().parts) + relative
    assert virtlockd.client.acquire(relative) is None
    assert locks_on(disk) == [KernelLock("WRITE", virtlockd.daemon.pid)]


def test_relative_paths_are_refused(lockd: Scene) -> None:
    client = lockd.client
    assert client.acquire("disk") == "invalid argument: resource 'disk' is not an absolute path"
    assert client.acquire("") == "invalid argument: resource '' is not an absolute path"
    assert client.create("disk") == "invalid argument: resource 'disk' is not an absolute path"
    assert client.create_lockspace("leases") == "invalid argument: lockspace 'leases' is not an absolute path"
