"""A guest's life: it connects, gets locks of each kind, is refused, gives back, dies, or drops its connection."""

from tests.faults.checks import require, soon
from tests.faults.peer import Peer
from tests.faults.points import MAIN, WORKER
from tests.faults.tracer import Call
from tests.faults.world import AUTOCREATE, SHARED, World

NAME = "life"
THREADS = (MAIN, WORKER)


def prepare(world: World) -> None:
    """Make what is there before the first call."""
    world.warm_up()


def play(world: World) -> None:
    """Play it, while a fault may happen."""
    first, second = begin(world)
    libvirtd = world.peer("libvirtd", owner=first)
    libvirtd.register()
    libvirtd.release(world.disk)
    libvirtd.acquire(world.disk)
    libvirtd.guest.drop_connection()
    world.check_held()
    first.release(world.lease, world.lockspace)
    first.release(world.slow_lease, world.slow_lockspace)
    end(world, first, second)


def finish(world: World) -> None:
    """Nothing is left to be done without faults."""


def belongs(calls: list[Call]) -> list[Call]:
    """Return the calls of a recording that are played."""
    return calls


def begin(world: World) -> tuple[Peer, Peer]:
    """Give two guests all kinds of locks."""
    first, second = world.peer("the first guest"), world.peer("the second guest")
    for peer in (first, second):
        peer.register()
    first.create_lockspace(world.lockspace)
    first.create_lockspace(world.slow_lockspace)
    first.acquire(world.disk)
    first.acquire(world.lease, world.lockspace, AUTOCREATE)
    first.acquire(world.shared, flags=SHARED)
    second.acquire(world.shared, flags=SHARED)
    require(second.is_refused(world.disk), "the disk was granted to two guests")
    first.acquire(world.slow_disk)
    first.acquire(world.slow_lease, world.slow_lockspace, AUTOCREATE)
    second.acquire(world.link)
    return first, second


def end(world: World, first: Peer, second: Peer) -> None:
    """Let the second guest die, and the first one drop its connection."""
    second.is_lost = True
    second.guest.kill()
    second.guest.wait_for_death()
    soon(lambda: world.is_released(world.link), "the lock of a dead guest is not released")
    first.is_lost = True
    first.guest.drop_connection()
    soon(lambda: first.guest.is_dead, "a guest that has dropped its connection is not fenced")
    soon(lambda: world.is_released(world.disk), "the lock of a fenced guest is not released")
