"""Calls that pass descriptors, although no procedure takes any."""

import os
import socket
from pathlib import Path
from struct import pack

import pytest

from lockd.wire import lock
from lockd.wire.frames import FrameType
from lockd.wire.lock import Procedure
from tests.differences.conftest import Scene
from tests.raw_client import RawClient


def _call_with_a_descriptor(scene: Scene, client: RawClient) -> None:
    """Call CREATE_LOCKSPACE with a descriptor, as libvirt does: their number, then each with one byte."""
    payload = pack(">I", 1) + lock.encode_create_lockspace(f"{scene.directory}/leases")
    client.socket.sendall(client.frame(Procedure.CREATE_LOCKSPACE, payload, FrameType.CALL_WITH_FDS))
    with Path(os.devnull).open("rb") as file:
        try:
            socket.send_fds(client.socket, [b"\0"], [file.fileno()])
        except BrokenPipeError:
            return  # the daemon has closed the connection already


def test_virtlockd_takes_descriptors_and_ignores_them(virtlockd: Scene) -> None:
    _call_with_a_descriptor(virtlockd, virtlockd.client)
    assert virtlockd.client.reply() is None


def test_who_sends_descriptors_is_disconnected(lockd: Scene) -> None:
    _call_with_a_descriptor(lockd, lockd.client)
    with pytest.raises(ConnectionResetError):
        lockd.client.reply()
    assert not (lockd.directory / "leases").exists()
