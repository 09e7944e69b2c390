"""Play points, and say what each has found."""

import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.faults import adoption, end, life, start, takeover, tracer, upgrade, workers
from tests.faults.checks import nothing_free, require
from tests.faults.errnos import errnos_of
from tests.faults.peer import PeerLost
from tests.faults.points import ADOPTED_WORKER, WORKER, Point, enumerate_points
from tests.faults.world import World, world
from tests.trouble.guest import Refused

SCENARIOS: dict[str, ModuleType] = {
    scenario.NAME: scenario for scenario in (start, life, end, upgrade, adoption, workers, takeover)
}
"""Each has a name, the threads whose calls are played, and four functions: what happens before the fault, what happens
while it may happen, what is checked after it, and which calls of a recording are played."""

_HUNG_UP = re.compile(r"^(read|write)\(\d+<socket:.* (ECONNRESET|EPIPE) ")
"""Faults that say that a peer has hung up. The daemon has to believe them, and fences the peer."""

_CONNECTION_FAILED = re.compile(
    r"^((read|write|getsockname|getsockopt)\(\d+<socket:|accept4\(|epoll_ctl\(.*_ADD, \d+<socket:)"
)
"""Calls without which the daemon cannot serve a connection. It may close it, and spares the owner with its locks."""

_OWNER_UNKNOWN = re.compile(
    r"^(pidfd_open\(|epoll_ctl\(.*_ADD, \d+<anon_inode:\[pidfd\]>|openat\(.*\"/proc/|read\(\d+</proc/"
    r"|getsockopt\(.*(0x4d|SO_PEERPIDFD)|readlink\(\"/proc/|poll\(.*pidfd)"
)
"""Calls without which it is not known for whom a client of virtlockd acts: virtlockd tells nothing but a number. After
that, the daemon may close the connection, and spares the owner with its locks."""

_OWNER_ENDED = re.compile(
    r"^(getsockopt\(.*(0x4d|SO_PEERPIDFD).* (EINVAL|ENODATA|ESRCH) |pidfd_open\(.* ESRCH )"
)
"""Faults that say that the owner's process has ended. The daemon has to believe them, and refuses to register it."""

_OWNER_UNCERTAIN = re.compile(r"^getsockopt\(.*(0x4d|SO_PEERPIDFD).* ENOPROTOOPT ")
"""A fault that stands for a kernel before Linux 6.5. virtlockd does not tell when a client has connected, in a clock that
nobody sets: another process may have the client's pid. So it is not killed, and the owner keeps its locks."""

_STATE_MISSING = re.compile(r"^openat\(.*virtlockd-restart-exec\.json.* (ENOENT|ENOTDIR|ELOOP|ENXIO) ")
"""Faults that say that there is no state of the program before. The daemon has to believe them, as at each ordinary start.
It keeps the inherited locks, though it knows nothing of them."""

_NOTICED_SECONDS = 0.4
"""After how many seconds an owner that the daemon believes gone would be killed."""

_UNHURT_SECONDS = {WORKER: 0.6, ADOPTED_WORKER: 3.0}
"""How long a call of a bystander may take while a call on a slow file system hangs. The second time includes a live
upgrade."""


@dataclass(frozen=True)
class Result:
    """What came of a point.

    :ivar point: the point.
    :ivar hit: the call that failed or hung, as strace shows it; None if the scenario did not come to it.
    :ivar finding: what is wrong; None if nothing is.
    :ivar seconds: how long it took.
    """

    point: Point
    hit: str | None
    finding: str | None
    seconds: float


def record(here: World, name: str) -> list[Point]:
    """Play a scenario without faults, and return its points.

    It is played twice, as what a daemon does for the first time takes more calls.

    :raises Finding: it does not go well without faults.
    """
    _record(here, name)
    return _record(here, name)


def _record(here: World, name: str) -> list[Point]:
    scenario = SCENARIOS[name]
    scenario.prepare(here)
    main = here.daemon.pid
    worker = here.worker() if WORKER in scenario.THREADS else None
    with tracer.recorded(main, here.trace, _paths(here, scenario.THREADS[0])):
        scenario.play(here)
    scenario.finish(here)
    here.end_peers()
    here.check_clean()
    here.check_log()
    here.tidy()
    calls = tracer.calls(here.trace)
    points = []
    for thread in scenario.THREADS:
        for number in sorted({call.thread for call in calls if _is_of(thread, call.thread, main, worker)}):
            own = scenario.belongs([call for call in calls if call.thread == number])
            points += enumerate_points(name, thread, own)
    return list(dict.fromkeys(points))


def _is_of(thread: str, number: int, main: int, worker: int | None) -> bool:
    """Return whether the thread with a number is one of those that are meant."""
    if thread == ADOPTED_WORKER:
        return number != main
    return number == (worker if thread == WORKER else main)


def _paths(here: World, thread: str) -> list[Path]:
    """Return the files of which the calls are traced; none for all."""
    return workers.paths(here) if thread == ADOPTED_WORKER else []


def play(here: World, point: Point) -> Result:
    """Play a scenario with a fault, and check what is left."""
    began = time.monotonic()
    scenario = SCENARIOS[point.scenario]
    findings: list[str] = []
    here.trace.write_text("")
    try:
        scenario.prepare(here)
        thread = here.worker() if point.thread == WORKER else here.daemon.pid
        with tracer.injected(thread, point.fault, here.trace, _paths(here, point.thread)):
            if point.fault.error is None:
                _play_beside_bystander(here, scenario, _UNHURT_SECONDS[point.thread])
            else:
                scenario.play(here)
        scenario.finish(here)
    except PeerLost as error:
        findings += _lost(here, error, point)
    except Exception as error:  # whatever it is, it was found by this point
        line = tracer.hit(here.trace) or ""
        # Of a client of virtlockd that has ended, the locks are released.
        believed = point.scenario == takeover.NAME or (
            isinstance(error, Refused) and "has ended" in str(error)
        )
        spared = (
            point.scenario == takeover.NAME
            and _OWNER_UNCERTAIN.search(line)
            and "is not fenced" in str(error)
        )
        if spared or _STATE_MISSING.search(line):
            findings += _given_away(here)
        elif not (believed and _OWNER_ENDED.search(line)):
            findings.append(f"{type(error).__name__}: {error}")
    hit = _possible(tracer.hit(here.trace), point)
    if hit is None:
        # Another call was the Nth one this time, and that one cannot fail like this.
        findings.clear()
        here.end_peers()
        here.end_daemon()
        here.tidy()
        return Result(point, None, None, time.monotonic() - began)
    if here.daemon.process.poll() is not None:
        findings.insert(0, f"the daemon has ended: {here.said()[-200:]}")
    here.end_peers()
    keeps_unknown_locks = _STATE_MISSING.search(hit) is not None
    if not findings and not keeps_unknown_locks:
        try:
            here.check_clean(hit)
            here.check_log()
        except Exception as error:
            findings.append(f"{type(error).__name__}: {error}")
    if findings or keeps_unknown_locks or point.fault.error is None or not here.is_clean():
        here.end_daemon()
    here.tidy()
    return Result(point, hit, "; ".join(findings) or None, time.monotonic() - began)


def _possible(hit: str | None, point: Point) -> str | None:
    """Return the line of the call that was hit, if that call can fail like this."""
    if hit is None or point.fault.error is None:
        return hit
    call = tracer.Call(0, point.fault.name, point.fault.number or 1, hit.partition(" = -1 ")[0])
    return hit if point.fault.error in errnos_of(call) else None


def _lost(here: World, error: PeerLost, point: Point) -> list[str]:
    """Return what is wrong with the loss of a peer's connection."""
    line = tracer.hit(here.trace) or ""
    if _HUNG_UP.search(line):
        return []
    if point.scenario == takeover.NAME and _OWNER_ENDED.search(line):
        return []
    not_adopted = point.scenario == takeover.NAME and _OWNER_UNKNOWN.search(line)
    if not (not_adopted or _CONNECTION_FAILED.search(line)):
        return [str(error)]
    time.sleep(_NOTICED_SECONDS)
    try:
        here.check_held()
    except Exception as finding:
        return [f"{error}; {type(finding).__name__}: {finding}"]
    return []


def _given_away(here: World) -> list[str]:
    """Return what another program can lock."""
    try:
        nothing_free([peer for peer in here.peers if not peer.guest.is_dead], here.outsider)
    except Exception as finding:
        return [f"{type(finding).__name__}: {finding}"]
    return []


@contextmanager
def temporary_world() -> Iterator[World]:
    """Make a world in a new directory with a short path: a socket's may have 107 bytes."""
    with (
        tempfile.TemporaryDirectory(prefix="lockd-", dir="/tmp") as directory,
        world(Path(directory)) as made,
    ):
        yield made


def record_alone(name: str) -> list[Point]:
    """Do what ``record`` does, in a world of its own."""
    with temporary_world() as made:
        return record(made, name)


def play_alone(points: Sequence[Point]) -> list[Result]:
    """Play points one after the other, in a world of their own."""
    with temporary_world() as made:
        return [play(made, point) for point in points]


def _play_beside_bystander(here: World, scenario: ModuleType, unhurt: float) -> None:
    """Play a scenario in which a call hangs; meanwhile, a client that has nothing to do with it must not wait."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            scenario.play(here)
        except BaseException as error:
            errors.append(error)

    bystander = here.peer("a bystander")
    bystander.register()
    player = threading.Thread(target=run)
    player.start()
    player.join(0.5)
    slowest = 0.0
    while player.is_alive():
        for file in (here.bystanders_disk, here.other_disk):
            for call in (bystander.acquire, bystander.release):
                began = time.monotonic()
                call(file)
                slowest = max(slowest, time.monotonic() - began)
        player.join(0.05)
    if errors:
        raise errors[0]
    require(slowest < unhurt, f"a bystander waited for {slowest:.1f} s")


def report(results: list[Result]) -> str:
    """Return how many points of which calls were played, and what was found."""
    lines = []
    by_call: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_call.setdefault((result.point.scenario, result.point.fault.name), []).append(result)
    for (scenario, name), some in sorted(by_call.items()):
        lines.append(
            f"{scenario:10} {name:18} {len(some):5} points {sum(r.hit is None for r in some):4} not reached"
            f" {sum(r.finding is not None for r in some):4} findings"
        )
    lines += [f"FOUND {r.point}: {r.finding}\n      {r.hit}" for r in results if r.finding is not None]
    found = sum(result.finding is not None for result in results)
    missed = sum(result.hit is None for result in results)
    lines.append(
        f"{len(results)} points, {missed} of them not reached; {found} findings;"
        f" {sum(result.seconds for result in results):.0f} s of one processor's time"
    )
    return "\n".join(lines)
