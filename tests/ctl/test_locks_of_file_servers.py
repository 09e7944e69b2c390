"""lockctl and a file system whose server keeps the locks: the kernel lists none of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ctl.conftest import Host, host_with
from tests.private_daemon import LOCKD
from tests.trouble.hanging_filesystem import can_mount, mounted


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Host, Path]]:
    """A host, and a disk on a FUSE file system that keeps locks itself."""
    if not can_mount():
        pytest.skip("mounting a FUSE file system needs root and /dev/fuse")
    with mounted(tmp_path / "server") as filesystem, host_with(tmp_path, LOCKD) as host:
        disk = filesystem.path / "disk"
        disk.touch()
        yield host, disk


def test_a_lock_that_the_kernel_does_not_list_is_no_disagreement(served: tuple[Host, Path]) -> None:
    host, disk = served
    with host.holder(disk):
        (lock,) = json.loads(host.lockctl("status", "--json", status=0))["locks"]
        assert (lock["path"], lock["kernel"]) == (str(disk), None)
        assert "agree on all 1" in host.lockctl("check", status=None)
