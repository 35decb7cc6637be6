"""One self-contained page: what was run, how it learned, quality against calls, and trajectories."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from components.data.tokenizer import load_tokenizer
from components.evaluation import trajectory
from components.evaluation.best import best_of_budgets, best_pairs
from components.evaluation.chart import COLOURS, Point, Series, line_chart
from components.evaluation.page import Section, best_table, edits_table, folded, page, results_table, table
from components.store.files import publish_text
from components.store.samples import read_shard, shard_file
from components.tracking import JOURNAL, read_metrics
from pipelines.graph.stage import Context
from pipelines.stages.spec import ReportSpec

MAX_TRACED = 64
"""Rows that are looked at for a picture."""


def run(config: ReportSpec, context: Context) -> Mapping[str, Any]:
    results = context.infos["evaluate"]["results"]
    sections = [
        Section("Quality against network calls", frontier(results)),
        *best_against_best(results),
        Section("Training", learning_curves(context)),
        Section("Trajectories", trajectories(results, context)),
        Section("What was run", what_was_run(config, context)),
    ]
    subtitle = f"{len(results)} samplers and budgets; every sample counts the network calls that it used"
    publish_text(context.folder / "report.html", page(config.title, subtitle, sections))
    return {"artifacts": ["report.html"]}


def frontier(results: list[dict[str, Any]]) -> str:
    """Chart and table."""
    names = list(dict.fromkeys(r["sampler"] for r in results))
    series = []
    for number, name in enumerate(names):
        rows = sorted((r for r in results if r["sampler"] == name), key=lambda r: r["calls"])
        points = tuple(Point(r["calls"], r["quality"], r["quality_low"], r["quality_high"]) for r in rows)
        series.append(Series(name, points, dashed=number >= len(COLOURS)))
    remarks = "<p>Bars are 95% intervals. Compare at equal calls, and never quality without <i>unique</i>: a sampler that repeats one good row is no sampler.</p>"
    metric = results[0]["metric"]
    if not results[0]["larger_is_better"]:
        metric = f"minus {metric}"
        remarks += f"<p>{html.escape(metric)}, so that higher is better here too.</p>"
    return (
        line_chart(series, "mean network calls per sample", metric)
        + remarks
        + results_table(results)
        + edits_table(results)
    )


def best_against_best(results: list[dict[str, Any]]) -> list[Section]:
    """Nothing where no two models meet at a budget."""
    pairs = best_pairs(results)
    return [Section("Best against best", best_table(pairs))] if pairs else []


def learning_curves(context: Context) -> str:
    """Training and validation bounds of every training."""
    series, correcting = [], []
    for role, folder in context.inputs.items():
        if not role.startswith("train_"):
            continue
        name, rows = role.removeprefix("train_"), read_metrics(folder / JOURNAL)
        series.append(curve(name, rows, "nll_bound"))
        series.append(curve(f"{name}, validation", rows, "validation/nll_bound", dashed=True))
        correcting.append(curve(f"{name}: fixed", rows, "fix_rate"))
        correcting.append(curve(f"{name}: broken", rows, "break_rate", dashed=True))
    parts = [line_chart(series, "optimiser step", "bound, nats per token", marks=False)]
    if any(s.points for s in correcting):
        parts.append("<h3>Corrector: share of wrong draft tokens made right, and of right ones made wrong</h3>")
        parts.append(line_chart(correcting, "optimiser step", "share", marks=False))
    return "".join(parts)


def curve(name: str, rows: list[dict[str, float]], column: str, dashed: bool = False) -> Series:
    points = tuple(Point(r["step"], r[column]) for r in rows if column in r)
    return Series(name, points if len(points) > 1 or "validation" not in column else (), dashed)


def trajectories(results: list[dict[str, Any]], context: Context) -> str:
    """A sample of the best sampler of each budget: of those whose trace was kept, the one with most corrections."""
    tokenizer = load_tokenizer(context.inputs["tokenizer"] / "tokenizer.json")
    parts = [
        "<p class='key'>The best sampler of each budget, and of its samples the one that was corrected most. Each picture "
        "is the row after a call that changed it: <b class='revealed'>revealed</b> by that call, "
        "<b class='replaced'>replaced</b> or <b class='remasked'>masked again</b> by the corrector.</p>"
    ]
    for row in best_of_budgets(results):
        role = f"samples_{results.index(row):03d}"
        first = context.infos[role]["shards"][0]
        samples = read_shard(shard_file(context.inputs[role] / "shards", first))
        traced = [r for r in samples.slice(0, MAX_TRACED).to_pylist() if r["trace"] is not None]
        if not traced:
            continue
        shown = max(traced, key=lambda r: r["edits"])
        title = f"{row['calls']:.1f} calls: {row['sampler']}, {row['metric']} {row['quality']:.3f}"
        parts.append(f"<h3>{html.escape(title)}</h3>")
        parts.append(
            f"<p><small>sample {shown['sample_index']}: {shown['calls']} calls, {shown['edits']} corrections</small></p>"
        )
        found = trajectory.frames(shown["tokens"], shown["trace"])
        parts.append(trajectory.draw(found, tokenizer.show, shown["num_prompt"]))
    return "".join(parts)


def what_was_run(config: ReportSpec, context: Context) -> str:
    rows = []
    for role, info in context.infos.items():
        if role.startswith("train_"):
            numbers = ", ".join(f"{k} {v:.4g}" for k, v in info.items() if isinstance(v, int | float))
            rows.append((role.removeprefix("train_"), context.inputs[role].name, numbers))
    read = [(role, context.inputs[role].name, digest) for role, digest in context.drew.items()]
    return (
        table(("training", "key", "at its end"), rows)
        + folded("configuration", config.run)
        + "<h3>What was read for this page</h3>"
        + table(("input", "key", "digest"), read)
    )
