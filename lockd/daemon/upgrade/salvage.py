"""Helpers to take over a state part by part. An error in one part does not affect the other parts."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_logger = logging.getLogger(__name__)


@contextmanager
def part(what: str) -> Iterator[None]:
    """Log an exception that is raised in the block, and continue after the block.

    :param what: what the block takes over, as a noun.
    """
    try:
        yield
    except Exception as error:
        _log_loss(what, error)


def each(what: str, entries: Any, name: str, take_over: Callable[[dict[str, Any]], object]) -> None:
    """Take over each entry of a list. An entry that cannot be taken over is logged.

    :param what: what an entry is, as a noun.
    :param entries: the list. Anything else is treated as an empty list.
    :param name: the key of an entry whose value identifies the entry in the log.
    :param take_over: takes over one entry.
    """
    for entry in entries if isinstance(entries, list) else ():
        try:
            take_over(entry)
        except Exception as error:
            _log_loss(f"{what} {entry.get(name) if isinstance(entry, dict) else entry}", error)


def dictionary(parent: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a dictionary that is an item of another one.

    :param parent: the other dictionary.
    :param key: the key of the item.
    :returns: the item; an empty dictionary if the item is missing or is not a dictionary.
    """
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _log_loss(what: str, error: Exception) -> None:
    _logger.error("%s could not be taken over: %s: %s", what, type(error).__name__, error)
