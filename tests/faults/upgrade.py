"""A live upgrade of lockd to itself, while guests have locks of each kind; up to the exec, with the old program."""

import signal
import time

from tests.faults import life
from tests.faults.checks import PATIENCE, Finding, require, soon, table_and_kernel_agree
from tests.faults.points import MAIN
from tests.faults.tracer import Call
from tests.faults.world import World
from tests.handover.program import answers

NAME = "upgrade"
THREADS = (MAIN,)

REFUSED = "goes on as it is"
"""What the daemon logs if it cannot be replaced."""


def prepare(world: World) -> None:
    """Give guests locks, and open a further connection."""
    world.warm_up()
    give_locks(world)


def give_locks(world: World) -> None:
    """Give two guests locks of each kind, and open libvirtd's connection for the first one."""
    life.begin(world)
    libvirtd = world.peer("libvirtd", owner=world.peers[0])
    libvirtd.register()


def play(world: World) -> None:
    """Have the program replaced, while a fault may happen."""
    if not replace(world):
        # The reason is in the log. Nothing of it is left: the next attempt succeeds.
        world.refused = True


def finish(world: World) -> None:
    """Check that nothing was lost, and that everything goes on."""
    if world.refused:
        world.refused = False
        require(replace(world), "the upgrade is refused a second time")
    world.check_held()
    table_and_kernel_agree(world.daemon, world.slow.path)
    first, second, libvirtd = world.peers
    for peer, file in ((first, world.disk), (second, world.link), (libvirtd, world.slow_disk)):
        peer.release(file)
        peer.acquire(file)
    libvirtd.guest.drop_connection()
    world.check_held()
    life.end(world, first, second)


def belongs(calls: list[Call]) -> list[Call]:
    """Return the calls of the old program."""
    return calls[: exec_index(calls) + 1]


def exec_index(calls: list[Call]) -> int:
    """Return where in a recording of the daemon's main thread the program is replaced."""
    return next(index for index, call in enumerate(calls) if call.name == "execve")


def replace(world: World) -> bool:
    """Have the daemon replaced; return whether the next program serves, False if the old one goes on."""
    daemon = world.daemon
    image = daemon.running_image()
    world.said()
    daemon.signal(signal.SIGUSR1)
    end = time.monotonic() + 4 * PATIENCE
    said = ""
    while daemon.running_image() in {image, b""}:
        said += world.said()
        require(daemon.process.poll() is None, f"the daemon has ended: {said[-300:]}")
        if REFUSED in said:
            require("Traceback" not in said, f"a traceback in the log: {said.strip().splitlines()[-1]}")
            return False
        require(time.monotonic() < end, "the upgrade does not happen, and no reason is logged")
        time.sleep(0.01)

    def serves() -> bool:
        if daemon.process.poll() is not None:
            raise Finding(f"the next program has ended: {world.said()[-300:]}")
        try:
            return answers(daemon)
        except OSError:
            return False

    soon(serves, "the next program does not serve")
    return True
