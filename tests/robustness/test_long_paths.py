"""Paths that would take long to follow: nobody waits for that."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.raw_client import RawClient
from tests.robustness.conftest import Guard

CALLS: dict[str, Callable[[RawClient, str], str | None]] = {
    "acquire": RawClient.acquire,
    "create": RawClient.create,
    "delete": RawClient.delete,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("length", [4000, 60_000])
def test_nobody_waits_for_a_long_path(guard: Guard, tmp_path: Path, call: str, length: int) -> None:
    path = str(tmp_path) + "/a" * ((length - len(str(tmp_path))) // 2)
    expected = "No such file or directory" if length == 4000 else "File name too long"
    with RawClient(guard.daemon) as client:
        start = time.monotonic()
        error = CALLS[call](client, path)
        took = time.monotonic() - start
    assert (error or expected).endswith(expected)
    assert took < 1  # it took seconds for the shorter path, and hours for the longer one
    guard.check()
