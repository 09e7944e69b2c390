"""No text makes the log fail: the log is used where an exception was just caught, so that the daemon goes on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lockd.daemon.log.log import Log
from lockd.daemon.log.settings import Level, LogSettings, Output
from lockd.engines.files.inodes import Inodes

HOSTILE = "\x85a\u2028\u202eb\x9b31m\ud800\udcff"
ESCAPED = r"\xc2\x85a\xe2\x80\xa8\xe2\x80\xaeb\xc2\x9b31m\xed\xa0\x80\xff"

_logger = logging.getLogger(__name__)


class Unsayable:
    """Something that cannot be put into a message."""

    def __str__(self) -> str:
        raise RuntimeError(HOSTILE)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Have this process log to a file as the daemon does, and to nothing else."""
    root = logging.getLogger()
    handlers, root.handlers, level = root.handlers, [], root.level
    output = Output(Level.INFO, "file", str(path))
    log = Log(LogSettings(Level.INFO, [], [output], output), Inodes())
    log.open()
    try:
        yield
    finally:
        log.set_outputs("4:stderr")
        root.handlers = handlers
        root.setLevel(level)


def test_what_a_terminal_or_a_reader_obeys_is_escaped(tmp_path: Path) -> None:
    with log_to(tmp_path / "log"):
        _logger.error("a name: %s", HOSTILE)
    (line,) = (tmp_path / "log").read_bytes().decode().splitlines()
    assert line.endswith(f": a name: {ESCAPED}")


def test_a_message_that_cannot_be_made_is_replaced_by_one_that_says_so(tmp_path: Path) -> None:
    with log_to(tmp_path / "log"):
        _logger.error("a name: %s", Unsayable())
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(" cannot be written: RuntimeError")


def test_the_text_of_an_exception_cannot_look_like_another_message(tmp_path: Path) -> None:
    with log_to(tmp_path / "log"):
        try:
            raise ValueError(f"1\r2\x852\u2028{HOSTILE}")
        except ValueError:
            _logger.exception("a fault")
    lines = (tmp_path / "log").read_bytes().decode().splitlines()
    assert lines[0].endswith(": a fault")
    assert lines[-1] == rf"ValueError: 1\x0d2\xc2\x852\xe2\x80\xa8{ESCAPED}"
