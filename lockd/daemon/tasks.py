"""Tasks beside the reactor.

An exception in one of them must not end the daemon, as all locks would end with it.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVarTuple

import trio

from lockd.daemon.rate_limit import faults

Arguments = TypeVarTuple("Arguments")

_PAUSE: Final = 1.0
"""How many seconds to wait before a function that has failed is called again."""

_logger = logging.getLogger(__name__)


class Tasks:
    """Starts tasks in a nursery. An exception in a task is logged, and ends only that task.

    :param nursery: the nursery.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start(self, function: Callable[[*Arguments], Awaitable[None]], *arguments: *Arguments) -> None:
        """Run a function as a task of its own.

        :param function: the async function.
        :param arguments: its arguments.
        """
        self._nursery.start_soon(_run, function, arguments)


async def _run(function: Callable[[*Arguments], Awaitable[None]], arguments: tuple[*Arguments]) -> None:
    try:
        await function(*arguments)
    except Exception:
        if faults.allows():
            _logger.exception("a task of the daemon failed; the daemon goes on without it")


async def go_on(function: Callable[[*Arguments], Awaitable[None]], *arguments: *Arguments) -> None:
    """Call a function until it returns without an exception.

    For what has to run as long as the daemon does.

    :param function: the async function.
    :param arguments: its arguments.
    """
    while True:
        try:
            await function(*arguments)
            return
        except Exception:
            _logger.exception("a task of the daemon failed; it is started again")
        await trio.sleep(_PAUSE)
