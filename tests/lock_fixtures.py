"""Fixtures of the tests of locks: processes that hold locks of their own, mounts, and a block device.

A conftest.py imports those that the tests of its directory use.
"""

import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from lockd.engines.files.slow_mounts import SlowMounts
from lockd.linux.mount_table import parse
from tests.outsider import Outsider
from tests.private_mounts import can_mount, mount, private_mounts
from tests.waiting import wait_until


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


@contextmanager
def loop_device(file: Path, *options: str) -> Iterator[Path]:
    """Make a loop device. Skip the test where there can be none.

    :param file: the file to put it on.
    :param options: options of losetup(8).
    :yields: the node of the device.
    """
    if os.geteuid() != 0:
        pytest.skip("a block device needs root")
    command = ["losetup", "--find", "--show", *options, str(file)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"a block device needs losetup: {made.stderr.strip()}")
    node = Path(made.stdout.strip())
    try:
        yield node
    finally:
        subprocess.run(["losetup", "--detach", str(node)], check=True)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """The node of a block device of 1 MiB."""
    image = tmp_path / "device.img"
    image.touch()
    os.truncate(image, 1024 * 1024)
    with loop_device(image) as node:
        yield node


@pytest.fixture
def tree(tmp_path: Path, mounts: None) -> Path:
    """A directory on a local file system of its own, in a mount namespace for this test."""
    directory = tmp_path / "tree"
    directory.mkdir()
    mount("tmpfs", directory, "mode=755")
    return directory


def mount_slow(target: Path, file: str | None = None) -> Path:
    """Mount an overlay, which counts as slow and needs no server. It can have a file in it."""
    target.mkdir(exist_ok=True, parents=True)
    layers = [target.parent / f"{target.name}.{number}" for number in (1, 2)]
    for layer in layers:
        layer.mkdir()
    if file is not None:
        (layers[0] / file).touch()
    mount("overlay", target, f"lowerdir={layers[0]}:{layers[1]}")
    return target


def mount_local(target: Path) -> Path:
    """Mount a local file system: a tmpfs."""
    target.mkdir(exist_ok=True, parents=True)
    mount("tmpfs", target)
    return target


def mountinfo(kinds: Mapping[str, str]) -> bytes:
    """Return a mountinfo file that lists the root directory, on a local file system, and further mounts.

    :param kinds: the types of the file systems, by their mount points.
    """
    lines = [
        f"{number} 1 0:{number} / {point} rw - {kind} none rw\n"
        for number, (point, kind) in enumerate({"/": "ext4", **kinds}.items(), 1)
    ]
    return "".join(lines).encode()


def slow_mounts(kinds: Mapping[str, str]) -> SlowMounts:
    """Return the mounts of ``mountinfo``, whatever is mounted on this machine."""
    mounts = SlowMounts()
    mounts.refresh(parse(mountinfo(kinds)))
    return mounts


@contextmanager
def partitioned(file: Path) -> Iterator[tuple[Path, Path, list[Path]]]:
    """Make a loop device with two partitions.

    :param file: the file to make and to put the device on.
    :yields: the file, the node of the device, and those of its partitions.
    """
    file.touch()
    os.truncate(file, 1 << 20)
    table = bytearray(512)
    for number, first in enumerate((64, 1024)):  # status, address, type, address, first sector, sectors: MBR
        struct.pack_into("<B3sB3sII", table, 446 + 16 * number, 0, b"", 0x83, b"", first, 512)
    table[510:] = b"\x55\xaa"
    with file.open("r+b") as written:
        written.write(table)
    with loop_device(file, "--partscan") as disk:
        try:
            # A kernel need not know the table: partx(8) reads it, and tells the kernel of the partitions.
            subprocess.run(["partx", "--add", str(disk)], capture_output=True, check=False)
            partitions = [Path(f"{disk}p{number}") for number in (1, 2)]
            wait_until(
                lambda: all(partition.exists() for partition in partitions), "the partitions are there"
            )
            yield file, disk, partitions
        finally:
            subprocess.run(["partx", "--delete", str(disk)], check=False)
