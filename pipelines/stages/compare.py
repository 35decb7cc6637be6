"""One table over tasks and training seeds: quality and diversity of every sampler at every budget."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from components.evaluation.chart import Point, Series, line_chart
from components.evaluation.frontier import over_seeds
from components.evaluation.page import Section, page, results_table, table
from components.store.files import publish_text
from pipelines.graph.stage import Context
from pipelines.stages.spec import CompareSpec

NUM_SHOWN = 8
"""Lines in a chart, as many as there are colours."""


def run(config: CompareSpec, context: Context) -> Mapping[str, Any]:
    rows: list[dict[str, Any]] = []
    for task in config.tasks:
        found = [context.infos[f"{task}.{seed}"]["results"] for seed in config.seeds]
        names = dict.fromkeys((r["sampler"], r["steps"]) for results in found for r in results)
        for name, steps in names:
            same = [r for results in found for r in results if (r["sampler"], r["steps"]) == (name, steps)]
            rows.append({"task": task} | over_seeds(same))
    sections = [Section(task, of_task([r for r in rows if r["task"] == task])) for task in config.tasks]
    read = [(role, context.inputs[role].name, digest) for role, digest in context.drew.items()]
    sections.append(Section("What was read for this page", table(("input", "key", "digest"), read)))
    subtitle = f"training seeds {', '.join(map(str, config.seeds))}; intervals are over seeds where there are several"
    publish_text(context.folder / "results.json", json.dumps(rows, indent=1))
    publish_text(context.folder / "table.md", markdown(rows))
    publish_text(context.folder / "report.html", page(config.title, subtitle, sections))
    return {"results": rows, "artifacts": ["results.json", "table.md", "report.html"]}


def of_task(rows: list[dict[str, Any]]) -> str:
    """Chart of the best and table of all."""
    names = list(dict.fromkeys(r["sampler"] for r in rows))

    def worth(name: str) -> float:
        own = [r["quality"] * r["unique"] for r in rows if r["sampler"] == name]
        return sum(own) / len(own)

    shown = sorted(names, key=worth, reverse=True)[:NUM_SHOWN] if rows[0]["larger_is_better"] else names[:NUM_SHOWN]
    series = []
    for name in shown:
        own = sorted((r for r in rows if r["sampler"] == name), key=lambda r: r["calls"])
        points = tuple(Point(r["calls"], r["quality"], r["quality_low"], r["quality_high"]) for r in own)
        series.append(Series(name, points))
    chart = line_chart(series, "mean network calls per sample", html.escape(rows[0]["metric"]))
    remark = f"<p>The {len(shown)} of largest quality times unique, averaged over budgets; the table has all.</p>"
    return chart + remark + results_table(rows)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as text."""
    lines = [
        "| task | sampler | training passes | calls | quality | 95% interval | unique | entropy | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(rows, key=lambda r: (r["task"], round(r["calls"]), -r["quality"])):
        lines.append(
            f"| {r['task']} | {r['sampler']} | {r['passes']} | {r['calls']:.1f} | {r['quality']:.3f} | "
            f"{r['quality_low']:.3f} to {r['quality_high']:.3f} | {r['unique']:.3f} | {r['entropy']:.3f} | {r['num_seeds']} |"
        )
    return "\n".join(lines) + "\n"
