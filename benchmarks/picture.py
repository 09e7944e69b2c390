"""The picture of docs/benchmarks.md: calls per second and latency against the number of guests."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.requirements import Rounds, typical
from benchmarks.scenes import GUESTS_OF_PICTURE

WIDTH, HEIGHT = 900, 390
PLOT_WIDTH, PLOT_HEIGHT = 300, 230
TOP = 92
COLOURS = {"lockd": "#0b7285", "virtlockd": "#d9480f"}
INK, FAINT, LINES = "#212529", "#868e96", "#e9ecef"


@dataclass(frozen=True)
class Panel:
    """One plot: a figure of the scenes with guests, divided by `unit` for display."""

    left: int
    title: str
    subtitle: str
    figure: str
    unit: float


PANELS = (
    Panel(70, "Calls per second", "16 clients, thousands; more is better", "16 calls/s", 1000),
    Panel(510, "Time of a call", "1 client, median, milliseconds; less is better", "1 p50 µs", 1000),
)


def draw(rounds: Rounds) -> str:
    """Return the picture as SVG."""
    body = "\n".join(_panel(panel, rounds) for panel in PANELS)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}" role="img">\n'
        f"<title>lockd and virtlockd: calls per second and latency against the number of guests</title>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _panel(panel: Panel, rounds: Rounds) -> str:
    curves = {server: _curve(rounds, server, panel) for server in COLOURS}
    highest = max((value for curve in curves.values() for _, value in curve), default=1.0)
    step = _step(highest)
    top = step * -(-highest // step)

    def x(guests: float) -> float:
        return panel.left + PLOT_WIDTH * guests / GUESTS_OF_PICTURE[-1]

    def y(value: float) -> float:
        return TOP + PLOT_HEIGHT * (1 - value / top)

    parts = [
        _text(panel.left - 40, 38, panel.title, size=18, weight=600),
        _text(panel.left - 40, 58, panel.subtitle, colour=FAINT),
    ]
    for tick in range(round(top / step) + 1):
        value = tick * step
        parts.append(
            f'<line x1="{panel.left}" x2="{panel.left + PLOT_WIDTH}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="{LINES if tick else FAINT}"/>'
        )
        parts.append(_text(panel.left - 8, y(value) + 4, f"{value:g}", colour=FAINT, anchor="end"))
    parts += [
        _text(x(guests), TOP + PLOT_HEIGHT + 20, f"{guests:,}", colour=FAINT, anchor="middle")
        for guests in range(0, GUESTS_OF_PICTURE[-1] + 1, 1000)
    ]
    middle = panel.left + PLOT_WIDTH / 2
    parts.append(_text(middle, TOP + PLOT_HEIGHT + 42, "guests on the host", colour=FAINT, anchor="middle"))

    for server, curve in curves.items():
        if not curve:
            continue
        points = " ".join(f"{x(guests):.1f},{y(value):.1f}" for guests, value in curve)
        colour = COLOURS[server]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [
            f'<circle cx="{x(guests):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}"/>'
            for guests, value in curve
        ]
        guests, value = curve[-1]
        parts.append(_text(x(guests) + 10, y(value) + 4, server, colour=colour, weight=600))
    return "\n".join(parts)


def _curve(rounds: Rounds, server: str, panel: Panel) -> list[tuple[int, float]]:
    values = (
        (guests, typical(rounds, server, f"{guests} guests", panel.figure)) for guests in GUESTS_OF_PICTURE
    )
    return [(guests, value / panel.unit) for guests, value in values if value is not None]


def _step(highest: float) -> float:
    """Return a round distance between grid lines, so that there are four to eight lines."""
    size = 10.0
    while highest / size < 4:
        size /= 2 if f"{size:g}"[0] == "1" else 2.5 if f"{size:g}"[0] == "5" else 2
    while highest / size > 8:
        size *= 2
    return size


def _text(
    x: float,
    y: float,
    text: str,
    *,
    colour: str = INK,
    anchor: str = "start",
    size: int = 13,
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}">{text}</text>'
    )
