"""Socket activation (sd_listen_fds(3)) without a running systemd, by systemd-socket-activate."""

import os
import socket
import struct
from pathlib import Path

import pytest

from tests.private_daemon import LOCKD, VIRTLOCKD, private_daemon

_LOCK_PROGRAM = (0x0EA7BEEF, 1)
_RESTRICT = 2
_NOT_REGISTERED, _UNKNOWN_PROGRAM = b"have not been registered", b"Cannot find program"

_BY_NAME = [
    (("virtlockd-sock", "virtlockd-admin-sock"), "virtlockd.socket:virtlockd-admin.socket"),
    (("virtlockd-admin-sock", "virtlockd-sock"), "virtlockd-admin.socket:virtlockd.socket"),
]
_BY_ADDRESS = [
    (("virtlockd-sock", "virtlockd-admin-sock"), None),
    (("virtlockd-admin-sock", "virtlockd-sock"), None),
]


def _call(path: Path, procedure: int) -> bytes:
    """Call a procedure whose only argument is flags; return the reply from its status on."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(15)
        connection.connect(str(path))
        connection.sendall(struct.pack(">8I", 32, *_LOCK_PROGRAM, procedure, 0, 1, 0, 0))
        (length,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
        return connection.recv(length - 4, socket.MSG_WAITALL)[20:]


def _serves_lock_program(path: Path) -> bool:
    reply = _call(path, _RESTRICT)
    assert (_NOT_REGISTERED in reply) != (_UNKNOWN_PROGRAM in reply)
    return _NOT_REGISTERED in reply


def _activate(directory: Path, paths: tuple[str, str], names: str | None) -> list[str]:
    """Return the command that listens on both sockets, and starts the daemon at the first connection."""
    directory.mkdir()
    (directory / "run" / "libvirt").mkdir(parents=True)
    command = ["systemd-socket-activate"]
    # The daemon sees the directory's "run" as its /run, so these are the paths that it knows.
    command += [f"--listen=/run/libvirt/{path}" for path in paths]
    return command if names is None else [*command, f"--fdname={names}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a /run of its own")
@pytest.mark.parametrize(("paths", "names"), [*_BY_NAME, *_BY_ADDRESS])
def test_lockd_tells_activated_sockets_apart(
    tmp_path: Path, paths: tuple[str, str], names: str | None
) -> None:
    _check(tmp_path, LOCKD, paths, names)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a /run of its own")
@pytest.mark.skipif(not VIRTLOCKD.exists(), reason="virtlockd is not installed")
@pytest.mark.parametrize(("paths", "names"), _BY_NAME)
def test_virtlockd_tells_activated_sockets_apart_by_name(
    tmp_path: Path, paths: tuple[str, str], names: str
) -> None:
    _check(tmp_path, VIRTLOCKD, paths, names)


def _check(tmp_path: Path, program: Path, paths: tuple[str, str], names: str | None) -> None:
    directory = tmp_path / "daemon"
    wrapper = _activate(directory, paths, names)
    with private_daemon(directory, program, wrapper=wrapper) as daemon:
        assert _serves_lock_program(daemon.socket)
        assert not _serves_lock_program(daemon.admin_socket)
