"""What the next program does after a live upgrade: it takes over locks, owners and clients."""

from tests.faults import upgrade
from tests.faults.tracer import Call

NAME = "adoption"

prepare, play, finish = upgrade.prepare, upgrade.play, upgrade.finish


def belongs(calls: list[Call]) -> list[Call]:
    """Return the calls of the next program, from where it looks for the state on. Before that, it is only loaded."""
    later = calls[upgrade.exec_index(calls) + 1 :]
    first = next(index for index, call in enumerate(later) if "virtlockd-restart-exec.json" in call.text)
    return later[first:]
