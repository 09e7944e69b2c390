"""Fixtures: booted machines with lockd, installed in either of two ways, or with libvirt's virtlockd."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.machine import DoesNotBootError, Machine, make_install, without_libvirt
from tests.systemd.tree import CannotMakeTreeError, debian_tree, overlay


@pytest.fixture(scope="session")
def tree() -> Path:
    """A Debian system with libvirt, which boots on this machine."""
    try:
        tree = debian_tree()
        with Machine([tree]):
            return tree
    except (CannotMakeTreeError, DoesNotBootError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a machine with systemd cannot be booted here: {error}")


@pytest.fixture(scope="session")
def drop_in_layers(tree: Path) -> Iterator[list[Path]]:
    """lockd installed on a Debian system with libvirt: a drop-in makes libvirt's unit run lockd."""
    with tempfile.TemporaryDirectory(prefix="lockd-layer-") as name:
        directory = Path(name)
        with overlay([tree], directory) as root:
            make_install(root)
        yield [directory / "changes", tree]


@pytest.fixture(scope="session")
def own_units_layers(tree: Path) -> Iterator[list[Path]]:
    """lockd installed on a Debian system without libvirt's daemons: lockd's own units run it."""
    with tempfile.TemporaryDirectory(prefix="lockd-layer-") as name:
        directory = Path(name)
        with overlay([tree], directory) as root:
            without_libvirt(root)
            make_install(root)
        yield [directory / "changes", tree]


_ENABLE = ("systemctl", "--quiet", "enable", "--now", "virtlockd.socket", "virtlockd-admin.socket")


def _booted(layers: list[Path]) -> Iterator[Machine]:
    with Machine(layers) as machine:
        machine.run(*_ENABLE)
        yield machine


@pytest.fixture
def libvirt_machine(tree: Path) -> Iterator[Machine]:
    """A booted machine with libvirt and its virtlockd; lockd is not installed."""
    yield from _booted([tree])


@pytest.fixture
def own_units_machine(own_units_layers: list[Path]) -> Iterator[Machine]:
    """A booted machine with lockd and its own units."""
    yield from _booted(own_units_layers)


@pytest.fixture(params=["drop-in", "own units"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A booted machine with lockd, installed in each of the two ways in turn."""
    yield from _booted(request.getfixturevalue(f"{request.param.replace('-', '_').replace(' ', '_')}_layers"))


@pytest.fixture(params=["virtlockd", "drop-in", "own units"])
def any_machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A booted machine with virtlockd, or with lockd installed in each of the two ways, in turn."""
    if request.param == "virtlockd":
        yield from _booted([request.getfixturevalue("tree")])
    else:
        yield from _booted(
            request.getfixturevalue(f"{request.param.replace('-', '_').replace(' ', '_')}_layers")
        )
