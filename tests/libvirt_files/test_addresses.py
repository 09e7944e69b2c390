"""The paths of virtlockd's sockets and files."""

import os
from pathlib import Path

import pytest

from lockd.libvirt.addresses import HomeUnknown, own_addresses, own_log_directory


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has the paths of root")
def test_the_paths_of_root_are_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/elsewhere")
    addresses = own_addresses()
    assert addresses.socket == Path("/run/libvirt/virtlockd-sock")
    assert addresses.admin_socket == Path("/run/libvirt/virtlockd-admin-sock")
    assert addresses.pid_file == Path("/run/virtlockd.pid")
    assert addresses.state_file == Path("/run/virtlockd-restart-exec.json")
    assert addresses.config_file == Path("/etc/libvirt/virtlockd.conf")


@pytest.mark.parametrize(
    ("runtime", "config", "directory", "config_file"),
    [
        ("/run/user/7", "/c", "/run/user/7/libvirt", "/c/libvirt/virtlockd.conf"),
        (None, None, "/home/u/.cache/libvirt", "/home/u/.config/libvirt/virtlockd.conf"),
        ("run/7", "./c", "/home/u/.cache/libvirt", "/home/u/.config/libvirt/virtlockd.conf"),
        ("", "", "/home/u/.cache/libvirt", "/home/u/.config/libvirt/virtlockd.conf"),
    ],
)
def test_the_paths_of_a_user_depend_on_the_environment(
    monkeypatch: pytest.MonkeyPatch, runtime: str | None, config: str | None, directory: str, config_file: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/u")
    for name, value in {"XDG_RUNTIME_DIR": runtime, "XDG_CONFIG_HOME": config}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    addresses = own_addresses()
    assert addresses.socket == Path(directory, "virtlockd-sock")
    assert addresses.admin_socket == Path(directory, "virtlockd-admin-sock")
    assert addresses.pid_file == Path(directory, "virtlockd.pid")
    assert addresses.state_file == Path(directory, "virtlockd-restart-exec.json")
    assert addresses.config_file == Path(config_file)


@pytest.mark.parametrize("home", ["relative", None])
def test_a_user_without_a_home_directory_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    """Without HOME, the home directory comes from the user database. Not every user of a container is in there."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_001)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_001)
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    with pytest.raises(
        HomeUnknown, match="user 4000001 has no home directory; set HOME or XDG_RUNTIME_DIR to an"
    ):
        own_addresses()
    with pytest.raises(HomeUnknown, match="set HOME or XDG_CACHE_HOME"):
        own_log_directory()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    assert own_addresses().socket == Path("/run/user/7/libvirt/virtlockd-sock")
