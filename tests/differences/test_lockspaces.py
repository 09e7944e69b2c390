"""Lockspaces whose directory or lease file is missing, cannot be made, or was replaced."""

import shutil

import pytest

from tests.differences.conftest import Scene
from tests.raw_client import AUTOCREATE


def test_virtlockd_does_not_make_a_deleted_directory_again(virtlockd: Scene) -> None:
    leases = virtlockd.leases()
    shutil.rmtree(leases)
    assert virtlockd.client.create_lockspace(leases) is None
    assert not leases.exists()
    refusal = f"Unable to open/create resource {leases}/disk: No such file or directory"
    assert virtlockd.client.acquire("disk", leases, AUTOCREATE) == refusal


def test_a_deleted_directory_is_made_again(lockd: Scene) -> None:
    leases = lockd.leases()
    shutil.rmtree(leases)
    assert lockd.client.create_lockspace(leases) is None
    assert leases.is_dir()
    assert lockd.client.acquire("disk", leases, AUTOCREATE) is None


@pytest.mark.parametrize("below", ["", "/leases"])
def test_virtlockd_reports_success_for_a_lockspace_that_it_could_not_make(
    virtlockd: Scene, below: str
) -> None:
    path = f"{virtlockd.disk()}{below}"
    assert virtlockd.client.new(path) is None
    refusal = f"internal error: Lockspace for path {path} does not exist"
    assert virtlockd.client.acquire("disk", path, AUTOCREATE) == refusal


def test_a_lockspace_that_cannot_be_made_is_refused(lockd: Scene) -> None:
    file = lockd.disk()
    refusal = f"internal error: Lockspace location {file} exists, but is not a directory"
    assert lockd.client.new(file) == refusal
    assert lockd.client.new(f"{file}/leases") == f"Unable to create lockspace {file}/leases: Not a directory"
    # CREATE_LOCKSPACE, which libvirt calls, is refused by both daemons.
    assert lockd.client.create_lockspace(file) == refusal


def test_virtlockd_removes_a_file_that_was_put_in_place_of_a_lease(virtlockd: Scene) -> None:
    leases = virtlockd.leases()
    lease = leases / "disk"
    assert virtlockd.client.acquire("disk", leases, AUTOCREATE) is None
    lease.unlink()
    lease.write_text("somebody else's")
    assert virtlockd.client.release("disk", leases) is None
    assert not lease.exists()


def test_a_file_that_was_put_in_place_of_a_lease_stays(lockd: Scene) -> None:
    leases = lockd.leases()
    lease = leases / "disk"
    assert lockd.client.acquire("disk", leases, AUTOCREATE) is None
    lease.unlink()
    lease.write_text("somebody else's")
    assert lockd.client.release("disk", leases) is None
    assert lease.read_text() == "somebody else's"
