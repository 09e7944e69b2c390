"""Tables of the figures, for the terminal and for docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.requirements import LIMITS, RATIOS, Limit, Rounds, paired_ratio, typical
from benchmarks.scenes import GUESTS_OF_PICTURE, HELD_LOCKS, LOCKSPACES, QUICK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.daemons import Server

NOT_MEASURED = "–"


def machine(servers: Iterable[Server]) -> dict[str, str]:
    """Describe what the figures depend on: processor, kernel, versions and date."""
    processor = next(
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    described = {
        "processor": f"{processor}, {os.cpu_count()} of them",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }
    described |= {server.name: server.version for server in servers}
    described["load average before"] = f"{os.getloadavg()[0]:.2f}"
    return described | {"measured": datetime.now(UTC).strftime("%Y-%m-%d")}


def requirement_table(rounds: Rounds) -> str:
    """Return a table of calls per second and ratios, with the required ratios."""
    head = ("per second", "virtlockd", "lockd", "ratio", "at least", "C floor", "of the floor", "at least")
    rows = []
    for case in (case for case in RATIOS if _asked(rounds, case.scene)):
        figures = [
            typical(rounds, server, case.scene, case.figure) for server in ("virtlockd", "lockd", "floor")
        ]
        ratio = paired_ratio(rounds, "virtlockd", case.scene, case.figure)
        of_floor = paired_ratio(rounds, "floor", case.scene, case.figure)
        rows.append(
            (
                case.title,
                _whole(figures[0]),
                _whole(figures[1]),
                _verdict(ratio, case.at_least),
                f"{case.at_least:g}",
                _whole(figures[2]) if case.of_floor or figures[2] else "",
                _verdict(of_floor, case.of_floor or 0) if case.of_floor or of_floor else "",
                f"{case.of_floor:g}" if case.of_floor else "",
            )
        )
    return _table(head, rows)


def limit_table(rounds: Rounds) -> str:
    """Return a table of memory and times, with their limits."""
    rows = []
    for limit in (limit for limit in LIMITS if _asked(rounds, limit.scene)):
        theirs = typical(rounds, "virtlockd", limit.scene, limit.figure)
        mine = typical(rounds, "lockd", limit.scene, limit.figure)
        rows.append((limit.title, _short(theirs), _short(mine), *_against_limit(rounds, limit, mine)))
    return _table(("", "virtlockd", "lockd", "against the limit", "at most"), rows)


def growth_table(rounds: Rounds) -> str:
    """Return a table of the cost of a call for growing numbers of guests, locks and lockspaces."""
    rows = []
    scenes = [
        *((count, "guests") for count in GUESTS_OF_PICTURE),
        *((count, "locks held") for count in HELD_LOCKS),
        *((count, "lockspaces") for count in LOCKSPACES),
    ]
    for count, what in scenes:
        scene = f"{count} {what}"
        if not _asked(rounds, scene):
            continue
        cells = [_short(typical(rounds, server, scene, "1 p50 µs")) for server in ("virtlockd", "lockd")]
        cells += [_short(typical(rounds, server, scene, "1 p99 µs")) for server in ("virtlockd", "lockd")]
        cells += [_whole(typical(rounds, server, scene, "16 calls/s")) for server in ("virtlockd", "lockd")]
        rows.append((f"{count:,} {what}", *cells))
    head = (
        "",
        "virtlockd, median µs",
        "lockd",
        "virtlockd, 99 % µs",
        "lockd",
        "virtlockd, 16 clients, calls/s",
        "lockd",
    )
    return _table(head, rows)


def missed(rounds: Rounds) -> list[str]:
    """Return one line for each requirement that was measured and missed."""
    lines = []
    for case in RATIOS:
        for other, least in (("virtlockd", case.at_least), ("floor", case.of_floor)):
            ratio = paired_ratio(rounds, other, case.scene, case.figure)
            if least is not None and ratio is not None and ratio < least:
                lines.append(f"{case.title}: {ratio:.2f} of {other}, at least {least:g} is required")
    for limit in LIMITS:
        value = _limited(rounds, limit)
        if value is not None and value > limit.at_most:
            lines.append(f"{limit.title}: {value:.4g}, at most {limit.at_most:g} is required")
    return lines


def document(rounds: Rounds, described: dict[str, str], failures: Sequence[str], rounds_asked: int) -> str:
    """Return the text of docs/benchmarks.md."""
    parts = [
        "# Benchmarks",
        "`make bench` writes this page. It measures lockd, libvirt's virtlockd and a bare C server in turn, in"
        " one run on one machine. The C server only opens, locks, closes and replies; it is the floor. Each"
        " guest is a process of its own whose connection holds a lock. Each client acquires and releases a"
        " lock without pause. The load generator has one processor to itself, and the daemon has the others;"
        " as root, they run with real-time priority. The locked files are on tmpfs. A figure is the median of"
        f" {rounds_asked} rounds, and a ratio is the median of the ratios of the rounds. Scenes without guests"
        f" that have a required ratio are played {QUICK} times in a round.",
        "![Calls per second and latency against the number of guests](benchmarks.svg)",
        requirement_table(rounds),
        limit_table(rounds),
        "The cost of a call as the number of guests, locks and lockspaces grows (one client; last two columns:"
        " 16 clients):",
        growth_table(rounds),
        *(["Not measured:\n\n" + "\n".join(f"- {failure}" for failure in failures)] if failures else []),
        _table(("machine", ""), list(described.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _asked(rounds: Rounds, scene: str) -> bool:
    """Return whether this run had to measure the scene.

    A scene that was not selected is left out of the tables.
    """
    return any(scene in scenes for scenes in rounds.values())


def _limited(rounds: Rounds, limit: Limit) -> float | None:
    if limit.relative:
        return paired_ratio(rounds, "virtlockd", limit.scene, limit.figure)
    return typical(rounds, "lockd", limit.scene, limit.figure)


def _against_limit(rounds: Rounds, limit: Limit, mine: float | None) -> tuple[str, str]:
    value = _limited(rounds, limit)
    if value is None:
        shown = NOT_MEASURED
    else:
        shown = f"{value:.2f} times" if limit.relative else _short(mine)
        shown += "" if value <= limit.at_most else " ✗"
    return shown, f"{limit.at_most:g} times" if limit.relative else f"{limit.at_most:g}"


def _verdict(ratio: float | None, least: float) -> str:
    if ratio is None:
        return NOT_MEASURED
    return f"{ratio:.2f}" + ("" if ratio >= least else " ✗")


def _whole(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def _short(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = (
        "|"
        + "|".join(
            "-" * (width + 2 - (column > 0)) + ":" * (column > 0) for column, width in enumerate(widths)
        )
        + "|"
    )
    return "\n".join([line(head), rule, *map(line, rows)])
