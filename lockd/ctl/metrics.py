"""``lockctl metrics``: print the daemon's counters, for example for node_exporter's textfile collector."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from lockd.client.status import StatusConnection
from lockd.ctl import terminal
from lockd.ctl.command import Commands, add_command
from lockd.ctl.exits import Exit
from lockd.linux.printable import printable

_NANOSECONDS: Final = 1_000_000_000

_LATENCY_EXPONENTS: Final = range(12, 40, 2)
"""The upper bounds of the histogram's buckets: powers of two, in nanoseconds. They go from 4 microseconds to
275 seconds."""

_EXAMPLE: Final = """\
example, for a timer (rename the file, so that the collector never reads half of it):
  lockctl metrics >/var/lib/node_exporter/lockd.prom.new &&
    mv /var/lib/node_exporter/lockd.prom.new /var/lib/node_exporter/lockd.prom
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: the commands of the parser.
    """
    add_command(
        commands,
        "metrics",
        run,
        summary="print counters in the OpenMetrics format",
        description="Print what the daemon holds and what it has done, in the OpenMetrics text format.",
        epilog=_EXAMPLE,
    )


def run(_options: argparse.Namespace) -> Exit:
    """Print the metrics.

    :param _options: the parsed command line, which has no options.
    :returns: the exit status.
    :raises ClientError: no daemon runs, it is not lockd, or it does not answer.
    """
    with StatusConnection.connect() as connection:
        daemon = connection.daemon()
        locks = list(connection.locks())
        held = Counter((lock["lockspace"], lock["mode"]) for lock in locks)
        doubted = sum(lock["doubt"] is not None for lock in locks)
        lockspaces = ["", *connection.lockspaces()]
    # The format is UTF-8 in every locale.
    terminal.escape_unencodable(sys.stdout, encoding="utf-8")
    for line in _lines(daemon, lockspaces, held, doubted):
        print(line)
    return Exit.DONE


def _lines(
    daemon: dict[str, Any], lockspaces: list[str], held: Counter[tuple[str, str]], doubted: int
) -> Iterator[str]:
    counters = daemon["counters"]
    # OpenMetrics has the types info and unknown, which the textfile collector does not know.
    yield from _family(
        "lockd_build_info", "gauge", "The daemon's version.", [("", {"version": daemon["version"]}, 1)]
    )
    yield from _family(
        "lockd_locks",
        "gauge",
        "Locks by lockspace and mode; the lockspace is empty for disks that are locked themselves.",
        [
            ("", {"lockspace": space, "mode": mode}, held[space, mode])
            for space in lockspaces
            for mode in ("exclusive", "shared")
        ],
    )
    yield from _family(
        "lockd_locks_doubted",
        "gauge",
        "Locks that may protect nothing, as lockctl status says.",
        [("", {}, doubted)],
    )
    yield from _family("lockd_clients", "gauge", "Connected clients.", [("", {}, daemon["clients"])])
    yield from _family(
        "lockd_clients_max",
        "gauge",
        "Largest number of connected clients.",
        [("", {}, daemon["max_clients"])],
    )
    yield from _family(
        "lockd_acquires",
        "counter",
        "Acquires that were granted.",
        [("_total", {}, sum(counters["latencies"]))],
    )
    yield from _family(
        "lockd_refusals",
        "counter",
        "Acquires that were refused: busy if somebody held the resource, otherwise failed.",
        [("_total", {"reason": reason}, counters[reason]) for reason in ("busy", "failed")],
    )
    yield from _family(
        "lockd_fencings",
        "counter",
        "Owners killed because they lost their connection while they held locks.",
        [("_total", {}, counters["fenced"])],
    )
    yield from _family(
        "lockd_upgrades",
        "counter",
        "Live upgrades of the daemon.",
        [("_total", {}, counters["upgrades"])],
    )
    yield from _family(
        "lockd_acquire_seconds",
        "histogram",
        "Time that the daemon took for acquires that were granted.",
        _histogram(counters),
    )
    yield "# EOF"


def _family(
    name: str, kind: str, help_text: str, samples: list[tuple[str, dict[str, str], float]]
) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"
    for suffix, labels, value in samples:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{suffix}{{{inside}}} {value}" if inside else f"{name}{suffix} {value}"


def _histogram(counters: dict[str, Any]) -> list[tuple[str, dict[str, str], float]]:
    latencies: list[int] = counters["latencies"]
    samples: list[tuple[str, dict[str, str], float]] = [
        ("_bucket", {"le": repr((1 << exponent) / _NANOSECONDS)}, sum(latencies[: exponent + 1]))
        for exponent in _LATENCY_EXPONENTS
    ]
    count = sum(latencies)
    return [
        *samples,
        ("_bucket", {"le": "+Inf"}, count),
        ("_sum", {}, counters["latency_sum"] / _NANOSECONDS),
        ("_count", {}, count),
    ]


def _escaped(text: str) -> str:
    r"""Return the value of a label, escaped for the format.

    The format is UTF-8, and no two series may have the same labels. So a byte that is not UTF-8 is written as
    ``\xff``, as is what a terminal would obey, and a backslash of the name as two: no other name becomes the same
    value.
    """
    name = os.fsencode(text.replace("\\", r"\\")).decode("utf-8", "surrogateescape")
    value = printable(name)
    return value.replace("\\", r"\\").replace('"', r"\"")
