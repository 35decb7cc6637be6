"""Line charts as inline SVG: no script, no file beside the page, readable in print."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 84, 30, 16, 52
# Okabe and Ito's palette: told apart by people who do not see all colours, and on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")


@dataclass(frozen=True)
class Point:
    """x, y and, where known, an interval of y."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    name: str
    points: tuple[Point, ...]
    dashed: bool = False
    """Its marks are hollow, too."""


def line_chart(series: list[Series], x_label: str, y_label: str, marks: bool = True) -> str:
    """An SVG element with its legend. Series without points are left out."""
    series = [s for s in series if s.points]
    if not series:
        return "<p class='quiet'>nothing to draw</p>"
    xs = [p.x for s in series for p in s.points]
    ys = [v for s in series for p in s.points for v in (p.y, p.low, p.high) if v is not None]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = min(x_ticks[0], min(xs)), max(x_ticks[-1], max(xs))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low or 1)
        up = (y - y_low) / (y_high - y_low or 1)
        return round(LEFT + across * (WIDTH - LEFT - RIGHT), 1), round(
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y_label)} against {html.escape(x_label)}">'
    ]
    for x in x_ticks:
        px, py = at(x, y_low)
        parts.append(f'<line class="grid" x1="{px}" y1="{TOP}" x2="{px}" y2="{py}"/>')
        parts.append(f'<text x="{px}" y="{py + 18}" text-anchor="middle">{x:g}</text>')
    for y in y_ticks:
        px, py = at(x_low, y)
        parts.append(f'<line class="grid" x1="{px}" y1="{py}" x2="{WIDTH - RIGHT}" y2="{py}"/>')
        parts.append(f'<text x="{px - 6}" y="{py + 4}" text-anchor="end">{y:g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>'
    )
    for number, s in enumerate(series):
        parts += draw(s, COLOURS[number % len(COLOURS)], at, marks)
    parts.append("</svg>")
    legend = "".join(
        f'<span><i style="border-color:{COLOURS[i % len(COLOURS)]};border-style:{"dashed" if s.dashed else "solid"}"></i>{html.escape(s.name)}</span>'
        for i, s in enumerate(series)
    )
    return f'<figure>{"".join(parts)}<figcaption class="legend">{legend}</figcaption></figure>'


def draw(s: Series, colour: str, at, marks: bool) -> list[str]:  # type: ignore[no-untyped-def]
    places = [at(p.x, p.y) for p in s.points]
    dash = ' stroke-dasharray="6 4"' if s.dashed else ""
    joined = " ".join(f"{x},{y}" for x, y in places)
    parts = [f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>']
    for p, (x, y) in zip(s.points, places, strict=True):
        if p.low is not None and p.high is not None:
            (_, y1), (_, y2) = at(p.x, p.low), at(p.x, p.high)
            parts.append(f'<line x1="{x}" y1="{y1}" x2="{x}" y2="{y2}" stroke="{colour}" stroke-width="1.5"/>')
        if marks:
            fill = "var(--paper)" if s.dashed else colour
            parts.append(
                f'<circle cx="{x}" cy="{y}" r="3.5" fill="{fill}" stroke="{colour}"><title>{html.escape(s.name)}: {p.x:.4g}, {p.y:.4g}</title></circle>'
            )
    return parts


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers that span the range."""
    if high <= low:
        high = low + (abs(low) or 1)
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if raw <= m * power)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]
