"""A message goes to every output whose level allows it, if the filters allow it for its module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.log.log_control import LogControl, lock_held, log_an_error
from tests.private_daemon import PrivateDaemon, private_daemon
from tests.raw_client import RawClient


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[PrivateDaemon]:
    with private_daemon(tmp_path / "daemon") as daemon:
        yield daemon


def _log_some(daemon: PrivateDaemon, disk: Path) -> None:
    """Make the daemon log an error, two messages at level info about a lock, and debug messages."""
    log_an_error(daemon)
    with lock_held(daemon, disk):
        pass


def _said(path: Path) -> list[str]:
    """Return the kinds of messages in a log, sorted."""
    kinds = {
        "was refused": "refused",
        " acquired ": "acquired",
        " released ": "released",
        "is pid": "connected",
    }
    text = path.read_text()
    return sorted({kind for words, kind in kinds.items() if words in text})


ALL = ["acquired", "connected", "refused", "released"]
LOCKS = ["acquired", "refused", "released"]


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ("", ["refused"]),
        ("1:*", ALL),
        ("2:*", LOCKS),
        ("4:*", ["refused"]),
        # Names of modules
        ("1:daemon.events", LOCKS),
        ("2:events", LOCKS),
        ("1:lockd.*.server", ["connected", "refused"]),
        # Names that virtlockd uses
        ("2:locking", LOCKS),
        ("1:locking", LOCKS),
        ("1:locking 1:rpc", ALL),
        ("1:rpc", ["connected", "refused"]),
        ("1:rpc.netserver", ["connected", "refused"]),
        ("1:util.json", ["refused"]),
        # The first filter that matches counts
        ("4:events 1:*", ["connected", "refused"]),
        ("1:* 4:events", ALL),
        ("1:[xr]vents", ["refused"]),
        ("1:[e]vents", LOCKS),
    ],
)
def test_a_filter_sets_the_level_of_what_it_matches(
    daemon: PrivateDaemon, disk: Path, tmp_path: Path, filters: str, said: list[str]
) -> None:
    log = LogControl(daemon)
    log.set_outputs(f"1:file:{tmp_path}/log")
    log.set_filters(filters)
    _log_some(daemon, disk)
    assert _said(tmp_path / "log") == said


def test_an_output_takes_messages_of_its_level_and_above(
    daemon: PrivateDaemon, disk: Path, tmp_path: Path
) -> None:
    log = LogControl(daemon)
    log.set_filters("1:*")
    log.set_outputs(" ".join(f"{level}:file:{tmp_path}/{level}" for level in (1, 2, 3, 4)))
    _log_some(daemon, disk)
    assert _said(tmp_path / "1") == ALL
    assert _said(tmp_path / "2") == LOCKS
    assert _said(tmp_path / "3") == ["refused"]
    assert _said(tmp_path / "4") == ["refused"]


def test_settings_can_be_taken_back(daemon: PrivateDaemon, disk: Path, tmp_path: Path) -> None:
    log = LogControl(daemon)
    log.set_outputs(f"1:file:{tmp_path}/log")
    log.set_filters("2:*")
    log.set_filters("")
    _log_some(daemon, disk)
    assert _said(tmp_path / "log") == ["refused"]


def test_the_levels_of_the_configuration_count(tmp_path: Path, disk: Path) -> None:
    settings = f'log_level = 2\nlog_filters = "4:events"\nlog_outputs = "1:file:{tmp_path}/log"\n'
    with private_daemon(tmp_path / "daemon", settings=settings) as daemon:
        log = LogControl(daemon)
        assert (log.outputs, log.filters) == (f"1:file:{tmp_path}/log", "4:*events* ")
        _log_some(daemon, disk)
        assert _said(tmp_path / "log") == ["refused"]
        log.set_filters("")
        _log_some(daemon, disk)
        assert _said(tmp_path / "log") == LOCKS


def test_a_message_is_one_line_with_the_owner_and_the_reason(daemon: PrivateDaemon, tmp_path: Path) -> None:
    LogControl(daemon).set_outputs(f"3:file:{tmp_path}/log")
    log_an_error(daemon)
    (line,) = (tmp_path / "log").read_text().splitlines()
    moment, rest = line.split(": ", 1)
    assert moment.endswith("+0000")
    assert rest.startswith(f"{daemon.pid}: error : events:")
    missing = f"{daemon.directory}/missing"
    assert f"was refused {missing}: Unable to open resource {missing}: No such file or directory" in rest
    assert "(pid " in rest


def test_a_message_names_its_module_even_if_that_is_compiled(daemon: PrivateDaemon, tmp_path: Path) -> None:
    LogControl(daemon).set_outputs(f"3:file:{tmp_path}/log")
    with RawClient(daemon, owner=None) as client:
        assert client.new("/lockspace") is not None
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert f" {daemon.pid}: error : server:" in line


def test_a_name_cannot_look_like_another_line(daemon: PrivateDaemon, tmp_path: Path) -> None:
    LogControl(daemon).set_outputs(f"3:file:{tmp_path}/log")
    log_an_error(daemon, "a\n2026-01-01 00:00:00.000+0000: 1: error : all is lost\x1b[31m")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert r"a\x0a2026-01-01" in line
    assert r"lost\x1b[31m" in line
