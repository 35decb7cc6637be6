"""Results of benchmarks as one SVG: how many times faster than the plain way each is, with its range, on a logarithmic axis."""

from __future__ import annotations

import html
import math
from typing import Any

from components.evaluation.chart import COLOURS

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 860, 34, 170, 300, 30, 46
STEPS = (1, 2, 5)


def drawn(results: list[dict[str, Any]]) -> str:
    """An SVG file. Ours is to the right of 1 where it is faster."""
    ratios = [found["ratios"][found["clock"]] for found in results]
    marks = grid(min(1.0, *map(min, ratios)), max(1.0, *map(max, ratios)))
    height = TOP + ROW * len(results) + BOTTOM
    low, high = math.log(marks[0]), math.log(marks[-1])

    def across(ratio: float) -> float:
        return round(LEFT + (math.log(ratio) - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    bottom = height - BOTTOM
    parts = [f'<rect width="{WIDTH}" height="{height}" fill="white"/>']
    for mark in marks:
        strong = mark == 1
        parts.append(f'<line x1="{across(mark)}" y1="{TOP}" x2="{across(mark)}" y2="{bottom}" stroke="{"#444" if strong else "#ddd"}"/>')
        parts.append(f'<text x="{across(mark)}" y="{bottom + 18}" text-anchor="middle" fill="#555">{mark:g}x</text>')
    for number, (found, own) in enumerate(zip(results, ratios, strict=True)):
        y, colour = TOP + ROW * (number + 0.5), COLOURS[number % len(COLOURS)]
        parts.append(f'<text x="{LEFT - 12}" y="{y + 5}" text-anchor="end">{html.escape(found["name"])}</text>')
        parts.append(f'<line x1="{across(min(own))}" y1="{y}" x2="{across(max(own))}" y2="{y}" stroke="{colour}" stroke-width="5" opacity=".4"/>')
        parts.append(f'<circle cx="{across(found["ratio"])}" cy="{y}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 14}" y="{y + 5}">{html.escape(said(found))}</text>')
    axis = "times as fast as the plain way: median and range of the rounds"
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 8}" text-anchor="middle" fill="#555">{axis}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="13" role="img" aria-label="{axis}">{"".join(parts)}</svg>\n'
    )


def said(found: dict[str, Any]) -> str:
    """A result in a few words."""
    rate = " ({ours:.3g}, {theirs:.3g} {unit}/s)".format(**found["rate"]) if found["rate"] else ""
    return f"{found['ratio']:.2f}x{rate}"


def grid(low: float, high: float) -> list[float]:
    """Round numbers, each about twice the one before, that span the range."""
    every = [round(step * 10.0**power, 10) for power in range(-6, 7) for step in STEPS]
    first = max(m for m in every if m <= low / 1.05)
    last = min(m for m in every if m >= high * 1.05)
    return [m for m in every if first <= m <= last]
