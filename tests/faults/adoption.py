"""What the next program does after a live upgrade: it takes over locks, owners and clients."""

from tests.faults import upgrade
from tests.faults.tracer import Call

NAME = "adoption"
THREADS = upgrade.THREADS

prepare, play, finish = upgrade.prepare, upgrade.play, upgrade.finish


def belongs(calls: list[Call]) -> list[Call]:
    """Return the calls of the next program."""
    return calls[upgrade.exec_index(calls) + 1 :]
