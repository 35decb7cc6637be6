"""The page of a night: what was decided and why, and how the nights before it went."""

from __future__ import annotations

import html
import math
from pathlib import Path

from components.evaluation.chart import Point, Series, line_chart
from components.evaluation.gate import Measured
from components.evaluation.page import Section, page, table
from components.store.artifact import read_manifest
from components.store.files import exists
from components.store.history import Entry, History

NUM_SHOWN = 60
"""Nights in the chart and the table."""


def night_page(name: str, history: History, entry: Entry, root: Path) -> str:
    """The whole file."""
    sections = [Section("Decision", decision(history, entry))]
    measured = measured_of(entry, root)
    if measured:
        sections.append(Section("Candidate against champion", differences(measured)))
    shown = [e for e in history.entries if e.date <= entry.date][-NUM_SHOWN:]
    sections.append(Section("Nights", chart(shown, root) + nights(shown)))
    subtitle = f"{entry.date}; decided {entry.at} on {entry.by}"
    return page(f"{name}, {entry.decision}", subtitle, sections)


def decision(history: History, entry: Entry) -> str:
    """What it came to."""
    rows = [
        ("decision", entry.decision),
        ("champion now", history.champion),
        ("champion until then", entry.before or "none"),
        ("candidate", entry.candidate or "none"),
        ("corpora and run", entry.data),
        ("missed nights that it stands for", max(0, entry.missed)),
    ]
    reasons = "".join(f"<p>{html.escape(reason)}</p>" for reason in entry.reason.split("; ") if reason)
    return reasons + table(("", ""), rows)


def measured_of(entry: Entry, root: Path) -> list[Measured]:
    """What the gate measured, nothing where there was none or its folder is gone."""
    folder = root / "gate" / entry.verdict
    manifest = read_manifest(folder) if entry.verdict and exists(folder) else None
    return [Measured(**one) for one in manifest.info["measured"]] if manifest else []


def differences(measured: list[Measured]) -> str:
    """The rule, number by number."""
    heads = ("metric", "wanted", "champion", "candidate", "difference, more is better", "interval", "pairs", "holds")
    rows = [
        (
            m.metric, "better" if m.margin is None else f"not worse by more than {m.margin:g}", f"{m.champion:.4f}",
            f"{m.candidate:.4f}", f"{m.difference:+.4f}", f"{m.low:+.4f} to {m.high:+.4f}", m.pairs, "yes" if m.holds else "no",
        )
        for m in measured
    ]  # fmt: skip
    return table(heads, rows, {i for i, m in enumerate(measured) if m.margin is None})


def chart(shown: list[Entry], root: Path) -> str:
    """What the champion after each night came to by the deciding metric, on the rows of that night."""
    points, metric = [], ""
    for place, entry in enumerate(shown):
        for m in measured_of(entry, root):
            value = m.candidate if entry.decision == "promoted" else m.champion
            if m.margin is None and math.isfinite(value):
                points.append(Point(place, value))
                metric = m.metric
    if not points:
        return ""
    return line_chart([Series("champion", tuple(points))], "nights", html.escape(metric))


def nights(shown: list[Entry]) -> str:
    """One line a night, the newest first."""
    heads = ("date", "decision", "candidate", "champion until then", "missed")
    rows = [(e.date, e.decision, e.candidate, e.before, max(0, e.missed)) for e in reversed(shown)]
    return table(heads, rows)
