"""A Debian system in a directory, made with debootstrap and kept between runs."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# libvirt is here for its units. QEMU is left out, because it is large: tests/libvirt runs guests.
_PACKAGES = (
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "libvirt-clients",
    "libvirt-daemon-system",
    "procps",
    "python3",
    "systemd",
    "systemd-sysv",
)


class CannotMakeTreeError(Exception):
    """This machine cannot make a Debian system. The message says why."""


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "/var/cache"), "lockd-tests")


def debian_tree() -> Path:
    """Return the directory of a Debian system, from the cache; make it if it is not there.

    It has the release of this machine, because the installed program needs the same version of Python.
    Raises CannotMakeTreeError.
    """
    if os.geteuid() != 0:
        raise CannotMakeTreeError("debootstrap needs root")
    if shutil.which("debootstrap") is None:
        raise CannotMakeTreeError("debootstrap is not installed")
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        raise CannotMakeTreeError(f"debootstrap of {release['ID']} is not known here")
    suite = release["VERSION_CODENAME"]
    key = hashlib.sha256(" ".join([suite, *_PACKAGES]).encode()).hexdigest()[:12]
    tree = _cache() / f"{suite}-{key}"
    tree.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tree.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Parallel test runs wait until the first one has made it.
        if not tree.is_dir():
            _make(tree, suite)
    return tree


def _make(tree: Path, suite: str) -> None:
    unfinished = tree.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    bootstrap = subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(_PACKAGES)}",
            suite,
            str(unfinished),
            _mirror(suite),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if bootstrap.returncode != 0:
        raise CannotMakeTreeError(f"debootstrap failed: {bootstrap.stdout.splitlines()[-1:]}")
    for package in (unfinished / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    unfinished.rename(tree)


def _mirror(suite: str) -> str:
    """Return the Debian mirror that this machine uses."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for target in targets.splitlines():
        site, codename = target.split()
        if codename == suite:
            return site
    raise CannotMakeTreeError(f"apt's sources have no {suite}")


@contextmanager
def overlay(layers: Sequence[Path], directory: Path) -> Iterator[Path]:
    """Mount an overlay of the layers, the uppermost first, and yield its root directory.

    Changes go to directory/changes. The directory can be used again, or its changes can be a layer of another
    overlay.
    """
    for name in ("changes", "work", "root"):
        (directory / name).mkdir(exist_ok=True)
    root = directory / "root"
    options = (
        f"lowerdir={':'.join(map(str, layers))},upperdir={directory / 'changes'},workdir={directory / 'work'}"
    )
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(root)], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)
