"""Taking over part by part: what is wrong with one part of a state costs no other."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_logger = logging.getLogger(__name__)


@contextmanager
def part(what: str) -> Iterator[None]:
    """Log what goes wrong in the block, and go on behind it.

    :param what: what the block takes over, as a noun.
    """
    try:
        yield
    except Exception as error:
        _log_loss(what, error)


def each(what: str, entries: Any, name: str, take_over: Callable[[dict[str, Any]], object]) -> None:
    """Take over every entry of a list. What goes wrong with one is logged.

    :param what: what an entry is, as a noun.
    :param entries: the list; anything else counts as an empty one.
    :param name: the key of an entry that names it.
    :param take_over: takes over one entry.
    """
    for entry in entries if isinstance(entries, list) else ():
        try:
            take_over(entry)
        except Exception as error:
            _log_loss(f"{what} {entry.get(name) if isinstance(entry, dict) else entry}", error)


def dictionary(parent: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the dictionary under a key.

    :param parent: where it should be.
    :param key: its key.
    :returns: the dictionary; an empty one where there is none.
    """
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _log_loss(what: str, error: Exception) -> None:
    _logger.error("%s could not be taken over: %s: %s", what, type(error).__name__, error)
