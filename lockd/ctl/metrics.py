"""``lockctl metrics``: the daemon's counters, for node_exporter's textfile collector and its like."""

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from lockd.client.status import StatusConnection
from lockd.ctl.command import Commands, add_command
from lockd.ctl.exits import Exit

_NANOSECONDS: Final = 1_000_000_000

_LATENCY_EXPONENTS: Final = range(12, 40, 2)
"""The bounds of the histogram, as powers of two, in nanoseconds: from 4 us to nearly five minutes."""

_EXAMPLE: Final = """\
example, in a timer (the collector must not read half a file):
  lockctl metrics >/var/lib/node_exporter/lockd.prom.new &&
    mv /var/lib/node_exporter/lockd.prom.new /var/lib/node_exporter/lockd.prom
"""


def add_parser(commands: Commands) -> None:
    """Add the command and its options.

    :param commands: where commands are added.
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
    """Print the metrics."""
    with StatusConnection.connect() as connection:
        daemon = connection.daemon()
        held = Counter((lock["lockspace"], lock["mode"]) for lock in connection.locks())
    for line in _lines(daemon, held):
        print(line)
    return Exit.DONE


def _lines(daemon: dict[str, Any], held: Counter[tuple[str, str]]) -> Iterator[str]:
    counters = daemon["counters"]
    # No info or unknown: the collector knows only the types that came before OpenMetrics.
    yield from _family(
        "lockd_build_info", "gauge", "The daemon's version.", [("", {"version": daemon["version"]}, 1)]
    )
    yield from _family(
        "lockd_locks",
        "gauge",
        "Locks that are held, by lockspace; an empty one means the disks themselves.",
        [
            ("", {"lockspace": space, "mode": mode}, held[space, mode])
            for space in ("", *daemon["lockspaces"])
            for mode in ("exclusive", "shared")
        ],
    )
    yield from _family("lockd_clients", "gauge", "Connected clients.", [("", {}, daemon["clients"])])
    yield from _family(
        "lockd_clients_max", "gauge", "Clients that may be connected.", [("", {}, daemon["max_clients"])]
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
        "Acquires that were refused, because somebody held the resource or for another reason.",
        [("_total", {"reason": reason}, counters[reason]) for reason in ("busy", "failed")],
    )
    yield from _family(
        "lockd_fencings", "counter", "Owners killed for their locks.", [("_total", {}, counters["fenced"])]
    )
    yield from _family(
        "lockd_upgrades",
        "counter",
        "Replacements of the program while it served.",
        [("_total", {}, counters["upgrades"])],
    )
    yield from _family(
        "lockd_acquire_seconds",
        "histogram",
        "Time in the daemon of the acquires that were granted.",
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
    """Return a label's value as the format wants it; it has to be UTF-8."""
    valid = text.encode("utf-8", "replace").decode("utf-8")
    return valid.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
