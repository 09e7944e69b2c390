"""The first start of a daemon. If it fails, it says why in one line, and leaves nothing."""

import re
import signal
from pathlib import Path

from tests.faults import life
from tests.faults.checks import PATIENCE, require, soon, table_and_kernel_agree
from tests.faults.points import MAIN
from tests.faults.tracer import Call, hit
from tests.faults.world import World
from tests.handover.program import answers

NAME = "start"
PID_FILE = Path("/run/virtlockd.pid")

_PID_FILE_UNKNOWN = re.compile(r"^(newfstatat|fcntl)\(.*virtlockd\.pid")
"""Faults after which the daemon cannot know whether the pid file is its own: an empty one may stay."""

THREADS = (MAIN,)


def prepare(world: World) -> None:
    """Have the process of the daemon wait just before the program begins."""
    world.clear()
    world.said()
    world.start_stopped_daemon()


def play(world: World) -> None:
    """Let the daemon start, and wait until it serves, or has ended."""
    world.daemon.signal(signal.SIGCONT)
    soon(lambda: has_ended(world) or serves(world), "the daemon neither serves nor ends", 4 * PATIENCE)


def finish(world: World) -> None:
    """Check what a failed start has said and left; and that the daemon serves, after another start if need be."""
    if has_ended(world):
        check_failed_start(world)
        world.start_daemon()
    else:
        require(world.pid_file() == f"{world.daemon.pid}\n", "the pid file has another text")
    serve_guests(world)


def check_failed_start(world: World) -> None:
    """Check that a start that has failed has said one line, and left nothing."""
    said = world.said()
    status = world.daemon.process.returncode
    require(status == 1, f"the start ends with {status}: {said[-300:]}")
    require("Traceback" not in said, f"a traceback: {said.strip().splitlines()[-1:]}")
    lines = said.splitlines()
    require(
        len(lines) == 1 and lines[0].startswith("virtlockd: "),
        f"a failed start says {len(lines)} lines: {lines}",
    )
    left = world.runtime_files()
    if PID_FILE in left and _PID_FILE_UNKNOWN.search(hit(world.trace) or "") and not world.pid_file():
        left.remove(PID_FILE)
    require(not left, f"a failed start leaves {left}")


def serve_guests(world: World) -> None:
    """Play a part of a guest's life."""
    world.warm_up()
    first, second = life.begin(world)
    world.check_held()
    table_and_kernel_agree(world.daemon, world.slow.path)
    life.end(world, first, second)


def has_ended(world: World) -> bool:
    """Return whether the daemon has ended."""
    return world.daemon.process.poll() is not None


def serves(world: World) -> bool:
    """Return whether the daemon answers."""
    try:
        return answers(world.daemon)
    except OSError:
        return False


def belongs(calls: list[Call]) -> list[Call]:
    """Return the calls of the program, without those of the shell that has waited before it."""
    first = next(index for index, call in enumerate(calls) if call.name == "execve")
    return calls[first + 1 :]
