"""The figures as tables: for the terminal and for docs/benchmarks.md alike."""

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
    """What the figures depend on: processor, kernel, versions, the day."""
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
    """Calls per second and ratios beside the least that is required."""
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
    """Memory and times beside the most that is allowed."""
    rows = []
    for limit in (limit for limit in LIMITS if _asked(rounds, limit.scene)):
        theirs = typical(rounds, "virtlockd", limit.scene, limit.figure)
        mine = typical(rounds, "lockd", limit.scene, limit.figure)
        rows.append((limit.title, _short(theirs), _short(mine), *_against_limit(rounds, limit, mine)))
    return _table(("", "virtlockd", "lockd", "against the limit", "at most"), rows)


def growth_table(rounds: Rounds) -> str:
    """What a call costs as guests, locks and lockspaces become many."""
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
    """One line for each requirement that was measured and not reached."""
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
    """docs/benchmarks.md."""
    parts = [
        "# Benchmarks",
        "Written by `make bench`: lockd, the real virtlockd and a bare C server that only opens, locks,"
        " closes and answers (the floor), by turns in one run on one machine. A guest is a process of its own"
        " whose connection holds a lock; a client acquires and releases without pause. The load generator has"
        " a processor to itself and the daemon the others, as root with real-time priority; the locked files are on"
        " tmpfs. Figures are medians"
        f" of {rounds_asked} rounds, ratios medians of the rounds' own ratios; scenes without guests that have a ratio"
        f" to reach are played {QUICK} times in a round.",
        "![Calls per second and latency against the number of guests](benchmarks.svg)",
        requirement_table(rounds),
        limit_table(rounds),
        "What a call costs as guests, locks and lockspaces become many (one client; last two columns: 16):",
        growth_table(rounds),
        *(["Not measured:\n\n" + "\n".join(f"- {failure}" for failure in failures)] if failures else []),
        _table(("machine", ""), list(described.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _asked(rounds: Rounds, scene: str) -> bool:
    """Whether this run was to measure the scene: what it was not to is no gap in its tables."""
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
