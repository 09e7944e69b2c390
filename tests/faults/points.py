"""The points: a scenario, a thread, a call, which of the thread's calls of that name, and how it goes wrong."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.errnos import errnos_of
from tests.faults.tracer import Call, Fault

PROJECT = Path(__file__).parents[2]
MAIN, WORKER, ADOPTED_WORKER = "main thread", "worker thread", "worker thread after a live upgrade"

_INTERPRETER = re.compile(
    "|".join(
        map(
            re.escape,
            (
                f"{sys.prefix}/",
                f"{PROJECT}/lockd",
                f'"{PROJECT}"',
                f"<{PROJECT}>",
                "pybuilddir.txt",
                "Setup.local",
                sys.base_prefix + "/lib",
                "/usr/lib",
                "/lib/",
                "/etc/ld.so",
                "/usr/bin/python",
            ),
        )
    )
    + r"|/proc/self/exe|\.pyc?\b|\.pth\b|\.so\b|locale|zoneinfo|openssl"
)
"""What is in the lines of the calls that Python makes to load programs and modules."""

_CURRENT_DIRECTORY = re.compile(r"AT_FDCWD<[^>]*>")

_PIN = re.compile(r"O_PATH.* = (\d+)<")
_CLOSE = re.compile(r"close\((\d+)")
"""The opening of a descriptor with O_PATH, and a close. Each has the number of the descriptor."""

_EPOLL_WAITS = 8
"""How many of a thread's epoll_waits are played: there are hundreds, and all that can happen to them is EINTR."""

_NEVER_HANGS = re.compile(r"socket:|[\"<]/proc/")
HANG_SECONDS = {WORKER: 1.5, ADOPTED_WORKER: 5.0}
"""How long a call of a worker thread hangs. A live upgrade takes a part of the second time."""


@dataclass(frozen=True)
class Point:
    """One point.

    :ivar scenario: the name of the scenario.
    :ivar thread: ``MAIN``, ``WORKER`` or ``ADOPTED_WORKER``.
    :ivar fault: what happens to which call.
    :ivar group: what it has in common with similar points.
    """

    scenario: str
    thread: str
    fault: Fault
    group: str

    def __str__(self) -> str:
        return f"{self.scenario}, {self.thread}: {self.fault} [{self.group}]"


def enumerate_points(scenario: str, thread: str, calls: Iterable[Call]) -> list[Point]:
    """Return all points of the calls of one thread.

    :param scenario: the name of the scenario.
    :param thread: ``MAIN``, ``WORKER`` or ``ADOPTED_WORKER``. A call of a worker thread may hang, too: on the main thread nothing is
        called that may wait for a server, which a test checks.
    :param calls: the calls, in their order.
    """
    points = []
    pins: set[str] = set()
    for call in calls:
        text = _CURRENT_DIRECTORY.sub("", call.text)
        opened = _PIN.search(text)
        closed = _CLOSE.match(text)
        if opened is not None:
            pins.add(opened[1])
        if closed is not None and closed[1] in pins:
            pins.discard(closed[1])
            continue
        if (call.name != "execve" and _INTERPRETER.search(text)) or (
            call.name == "epoll_wait" and call.number > _EPOLL_WAITS
        ):
            continue
        faults = [Fault(call.name, call.number, errno) for errno in errnos_of(call)]
        if thread in HANG_SECONDS and faults and not _NEVER_HANGS.search(text):
            faults.append(Fault(call.name, call.number, seconds=HANG_SECONDS[thread]))
        points += [Point(scenario, thread, fault, f"{call.name} {object_of(text)}") for fault in faults]
    return points


def object_of(text: str) -> str:
    """Return what a call is made on, without numbers: the end of the path, or the kind of the descriptor."""
    named = re.search(r'"([^"]*)"|<([^>]*)>', text)
    if named is None:
        return ""
    if re.match(r"\w+\(\d+<(socket|pipe|anon_inode)", text):
        return re.sub(r"\[?\d+\]?", "", named[2] or "")
    return re.sub(r"\d+", "", (named[1] or named[2] or "").rpartition("/")[2])


def quick_selection(points: Iterable[Point]) -> list[Point]:
    """Return one point of each group: of each call on each kind of file. The error numbers alternate."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        if point.fault.error is not None:
            groups.setdefault((point.scenario, point.thread, point.group), []).append(point)
    return [group[(7 * number) % len(group)] for number, group in enumerate(groups.values())]
