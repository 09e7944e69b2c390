"""Tasks beside the reactor, none of which may take the daemon, and with it all locks, down."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

Arguments = TypeVarTuple("Arguments")

_logger = logging.getLogger(__name__)


class Tasks:
    """Starts tasks in a nursery. A fault in one is logged, and ends that task alone."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start(self, function: Callable[[*Arguments], Awaitable[None]], *arguments: *Arguments) -> None:
        """Run ``function`` as a task of its own."""
        self._nursery.start_soon(_run, function, arguments)


async def _run(function: Callable[[*Arguments], Awaitable[None]], arguments: tuple[*Arguments]) -> None:
    try:
        await function(*arguments)
    except Exception:
        _logger.exception("a task of the daemon's own failed; it goes on without")
