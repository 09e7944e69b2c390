"""lockd takes over from the real virtlockd, in the same process, with locks of each kind."""

import signal

from tests.faults import start, upgrade
from tests.faults.checks import PATIENCE, Finding, soon
from tests.faults.points import MAIN
from tests.faults.world import World

NAME = "takeover"
THREADS = (MAIN,)

finish, belongs = upgrade.finish, start.belongs


def prepare(world: World) -> None:
    """Give guests locks in virtlockd, and have it execute lockd, which waits just before it begins."""
    world.clear()
    world.start_virtlockd()
    world.inherited = 1  # virtlockd leaves its own descriptor of the log file to the next program
    upgrade.give_locks(world)
    world.said()
    world.stop_next_program()
    world.daemon.signal(signal.SIGUSR1)
    world.wait_until_stopped()


def play(world: World) -> None:
    """Let lockd take over, and wait until it serves."""
    world.daemon.signal(signal.SIGCONT)

    def serves() -> bool:
        if start.has_ended(world):
            raise Finding(f"lockd has ended: {world.said()[-300:]}")
        return start.serves(world)

    soon(serves, "lockd does not serve", 4 * PATIENCE)
