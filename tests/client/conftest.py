"""Daemons to connect to, and ways to connect."""

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lockd.client.connection import LockConnection
from lockd.client.trio_connection import TrioLockConnection
from tests.private_daemon import LOCKD, VIRTLOCKD, PrivateDaemon, private_daemon


@pytest.fixture(params=[LOCKD, VIRTLOCKD], ids=["lockd", "virtlockd"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PrivateDaemon]:
    """lockd and virtlockd in turn: the library must raise the same error for a refusal by either."""
    program: Path = request.param
    if not program.exists():
        pytest.skip(f"{program} is not there")
    if program == VIRTLOCKD and os.geteuid() != 0:
        pytest.skip("virtlockd needs a /run of its own here, which needs root")
    with private_daemon(tmp_path / "daemon", program) as daemon:
        yield daemon


@pytest.fixture(params=["blocking", "trio"])
async def connect(request: pytest.FixtureRequest) -> Callable[[Path], Awaitable[Any]]:
    """A function that opens a trio connection, or a blocking connection with the same interface."""

    async def connect_trio(path: Path) -> Any:
        return await TrioLockConnection.connect(path)

    async def connect_blocking(path: Path) -> Any:
        return Awaited(LockConnection.connect(path))

    return connect_trio if request.param == "trio" else connect_blocking


class Awaited:
    """A blocking connection with the interface of a trio connection, so that one test covers both."""

    def __init__(self, connection: LockConnection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._connection, {"aclose": "close"}.get(name, name))

        async def call(*arguments: Any, **keywords: Any) -> Any:
            return method(*arguments, **keywords)

        return call

    async def __aenter__(self) -> "Awaited":
        self._connection.__enter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._connection.__exit__(*error)
