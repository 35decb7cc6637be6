"""The page of a batch job: what it made and cost, where corrections fell, and rows before and after theirs."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.evaluation.chart import Point, Series, line_chart
from components.evaluation.page import Section, page, table

MAX_CORRECTIONS = 50
"""Of an example, that are listed."""


@dataclass(frozen=True)
class Correction:
    """A visible token that was changed, as texts."""

    call: int
    position: int
    old: str
    new: str
    confidence: float | None


@dataclass(frozen=True)
class Example:
    """A row, token by token."""

    row_id: str
    before: tuple[str, ...]
    """Every position that was corrected as it was at first, the others as they ended."""
    after: tuple[str, ...]
    corrections: tuple[Correction, ...]


def example_of(row: Mapping[str, Any], show: Callable[[int], str]) -> Example:
    """A row of a sample table whose corrections were kept.

    Args:
        show: a token as a person wants to see it.
    """
    before = list(row["tokens"])
    for c in reversed(row["corrections"]):
        before[c["position"]] = c["old"]
    corrections = tuple(
        Correction(c["call"], c["position"], show(c["old"]), show(c["new"]), c["confidence"])
        for c in row["corrections"]
    )
    return Example(row["row_id"], tuple(map(show, before)), tuple(map(show, row["tokens"])), corrections)


def batch_page(info: Mapping[str, Any], examples: Sequence[Example], title: str = "batch job") -> str:
    """The whole file.

    Args:
        info: of the generate stage's manifest (``components.shards.account.Account``, with ``calls`` and ``edits`` a
            row), and its ``seconds``.
    """
    sections = [Section("What was made", numbers(info)), Section("Corrections by position", by_position(info))]
    if examples:
        sections.append(Section("Before and after correction", "".join(drawn(e) for e in examples)))
    return page(title, f"{info['samples']} samples in {info['seconds']:.0f} s", sections)


def numbers(info: Mapping[str, Any]) -> str:
    samples = info["samples"]
    rows = [
        ("samples", samples),
        ("could not be made", info["quarantined"]),
        ("seconds", f"{info['seconds']:.1f}"),
        ("samples a second", f"{samples / max(info['seconds'], 1e-9):.2f}"),
        ("network calls a sample", f"{info['calls']:.2f}"),
        ("useful tokens", info["useful_tokens"]),
        ("calls a useful token", f"{info['calls_per_useful_token']:.3f}"),
        ("padding waste", f"{info['padding_waste']:.1%}"),
        ("corrections a sample", f"{info['edits']:.2f}"),
        ("samples with a correction", f"{info['corrected'] / max(1, samples):.1%}"),
        ("shards tried again", info["retries"]),
    ]
    return table(("", ""), rows)


def by_position(info: Mapping[str, Any]) -> str:
    counts = info["corrections_by_position"]
    if not any(counts):
        return "<p class='quiet'>None were made, or they were not kept.</p>"
    points = tuple(Point(i, count / max(1, info["samples"])) for i, count in enumerate(counts))
    return line_chart([Series("corrections", points)], "position", "corrections a sample", marks=False)


def drawn(example: Example) -> str:
    """One row twice, with what changed marked, and its corrections behind a click."""
    places = {c.position for c in example.corrections}
    lines = [
        (c.call, c.position, c.old, c.new, "-" if c.confidence is None else f"{c.confidence:.3f}")
        for c in example.corrections[:MAX_CORRECTIONS]
    ]
    more = len(example.corrections) - len(lines)
    rest = f"<p class='quiet'>and {more} more</p>" if more else ""
    listed = table(("call", "position", "old", "new", "probability"), lines)
    return (
        f"<h3>{html.escape(example.row_id)}</h3>"
        f"{row_of('before', example.before, places, 'remasked')}{row_of('after', example.after, places, 'replaced')}"
        f"<details><summary>{len(example.corrections)} corrections</summary>{listed}{rest}</details>"
    )


def row_of(title: str, tokens: Sequence[str], places: set[int], mark: str) -> str:
    parts = (f"<b class='{mark}'>{html.escape(t)}</b>" if i in places else html.escape(t) for i, t in enumerate(tokens))
    return f'<div class="running"><small>{title}</small><pre>{"".join(parts)}</pre></div>'
