"""The worker threads of the next program after a live upgrade: it serves guests on a slow file system."""

from pathlib import Path

from tests.faults import upgrade
from tests.faults.points import ADOPTED_WORKER
from tests.faults.tracer import Call
from tests.faults.world import AUTOCREATE, World

NAME = "workers"
THREADS = (ADOPTED_WORKER,)

prepare, finish = upgrade.prepare, upgrade.finish


def play(world: World) -> None:
    """Have the program replaced, and what guests have on a slow file system released and acquired again."""
    upgrade.play(world)
    first, second, libvirtd = world.peers[:3]
    libvirtd.release(world.slow_disk)
    libvirtd.acquire(world.slow_disk)
    first.release(world.slow_lease, world.slow_lockspace)
    first.acquire(world.slow_lease, world.slow_lockspace, AUTOCREATE)
    second.release(world.link)
    second.acquire(world.link)


def belongs(calls: list[Call]) -> list[Call]:
    """Return the calls of a recording that are played."""
    return calls


def paths(world: World) -> list[Path]:
    """Return the files of which the calls are played. The main thread makes none on them."""
    return [world.slow_disk, world.slow_lease, world.slow_lockspace, world.link.resolve()]
