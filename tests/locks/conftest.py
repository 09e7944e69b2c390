"""Fixtures: processes outside the table, mounts, and a block device."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.locks.outsider import Outsider
from tests.private_mounts import can_mount, private_mounts


@pytest.fixture
def outsider() -> Iterator[Outsider]:
    """A process that holds fcntl locks of its own."""
    with Outsider() as process:
        yield process


@pytest.fixture
def mounts() -> Iterator[None]:
    """A mount namespace for this test."""
    if not can_mount():
        pytest.skip("mounting needs root and a mount namespace")
    with private_mounts():
        yield


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """The node of a block device of 1 MiB."""
    image = tmp_path / "device.img"
    image.touch()
    os.truncate(image, 1024 * 1024)
    command = ["losetup", "--find", "--show", str(image)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"a block device needs losetup: {made.stderr.strip()}")
    node = Path(made.stdout.strip())
    yield node
    subprocess.run(["losetup", "--detach", str(node)], check=True)
