"""lockctl in locales that have no characters for the names of disks, and names that are not UTF-8."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockd.client.connection import LockConnection
from lockd.client.resource import Resource
from tests.ctl.conftest import Host

# Python takes the locale C for UTF-8, unless it is told not to.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

NAME = "dé\udcff"


@pytest.fixture(params=["ascii", "C", "C.UTF-8"])
def locale(request: pytest.FixtureRequest) -> dict[str, str]:
    return ASCII if request.param == "ascii" else {"LC_ALL": request.param}


@pytest.fixture
def disk(host: Host) -> Iterator[Path]:
    """A held disk with a name of which one character is not ASCII, and one byte not UTF-8."""
    disk = host.disk(NAME)
    with LockConnection.connect(host.daemon.socket) as connection:
        connection.register()
        connection.acquire(Resource("", str(disk)))
        yield disk


def lockctl(host: Host, locale: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        list(map(os.fsencode, host.command(*arguments))),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=host.environment | locale,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr
    return done


def test_every_command_knows_the_disk_in_every_locale(host: Host, disk: Path, locale: dict[str, str]) -> None:
    for command in (["status"], ["status", "--raw", "--output-all"], ["status", disk], ["who", disk]):
        done = lockctl(host, locale, *command)
        assert done.returncode == 0, done
        assert done.stdout.replace(b"\xc3\xa9", rb"\xc3\xa9").isascii()
        assert rb"d\xc3\xa9\xff" in done.stdout.replace(b"\xc3\xa9", rb"\xc3\xa9")
    for command in (["status", "--json"], ["who", "--json", disk], ["resource", disk], ["check", "--json"]):
        assert lockctl(host, locale, *command).returncode == 0
    assert lockctl(host, locale, "run", disk, "--", "true").returncode == 75
    assert b"which is alive on this host" in lockctl(host, locale, "release", "--force", disk).stderr
    for command in (["who", f"{disk}-missing"], ["clean", f"{disk}-missing"], ["sta\udcfftus"]):
        assert lockctl(host, locale, *command).returncode in {2, 74}


def test_series_of_names_that_differ_in_invalid_bytes_differ(host: Host, locale: dict[str, str]) -> None:
    names = [
        *("s\udcff", "s\udcfe", "sé", "s?", r"s\xff", r"s\udcff", "s\\", "s\\\\"),
        *("s\x1b[31m", r"s\x1b[31m", "s\x9b", "s\u202e", "s\u2028", "s\n", r"s\n", r"s\x0a"),
    ]
    with LockConnection.connect(host.daemon.socket) as connection:
        connection.register()
        for name in names:
            connection.create_lockspace(f"{host.directory}/{name}")
    lines = lockctl(host, locale, "metrics").stdout.decode("utf-8").removesuffix("\n").split("\n")
    assert all(map(str.isprintable, lines))
    series = [line.rpartition(" ")[0] for line in lines if line.startswith("lockd_locks{")]
    assert len(series) == len(set(series)) == 2 * (len(names) + 1)
    assert f'lockd_locks{{lockspace="{host.directory}/sé",mode="shared"}}' in series
    assert rf'lockd_locks{{lockspace="{host.directory}/s\\xff",mode="shared"}}' in series


@pytest.mark.parametrize("command", ["status", "metrics", "check", "acquire"])
def test_closed_standard_streams_are_no_fault(host: Host, command: str) -> None:
    disks = [host.disk("disk")] if command == "acquire" else []
    closing = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *host.command(command, *disks)]
    done = subprocess.run(closing, stderr=subprocess.PIPE, env=host.environment, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
