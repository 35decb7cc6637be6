"""One self-contained page: what was run, how it learned, quality against calls, and trajectories."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping
from typing import Any

from components.data.corpora import open_corpus
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.evaluation import trajectory
from components.evaluation.best import as_measured, best_of_budgets, best_pairs
from components.evaluation.chart import COLOURS, Point, Series, line_chart
from components.evaluation.headline import headline
from components.evaluation.page import Section, best_table, edits_table, folded, page, results_table, table
from components.evaluation.trajectory import Frame
from components.store.files import publish_text
from components.store.samples import read_shard, shard_file
from pipelines.graph.short import duration
from pipelines.graph.stage import Context
from pipelines.provenance import made_by
from pipelines.stages import curves
from pipelines.stages.spec import ReportSpec

MAX_TRACED = 64
"""Rows that are looked at for a picture."""


def run(config: ReportSpec, context: Context) -> Mapping[str, Any]:
    results = context.infos["evaluate"]["results"]
    sections = [
        Section("Quality against network calls", frontier(results)),
        *best_against_best(results),
        Section("Training", curves.learning(config, context)),
        Section("Trajectories", trajectories(results, config, context)),
        Section("What was run", what_was_run(config, context)),
    ]
    subtitle = f"{len(results)} samplers and budgets; every sample counts the network calls that it used"
    text = page(config.title, subtitle, sections, str(headline(results)), facts(results, context))
    publish_text(context.folder / "report.html", text)
    return {"artifacts": ["report.html"]}


def facts(results: list[dict[str, Any]], context: Context) -> dict[str, str]:
    """What a reader wants to know first."""
    trained = {role.removeprefix("train_"): info for role, info in context.infos.items() if role.startswith("train_")}
    data = [
        f"{role.removeprefix('rows_')}: {info['documents']:,} documents, {info['tokens']:,} tokens ({context.drew.get(role, '')})"
        for role, info in context.infos.items()
        if role.startswith("rows_")
    ]
    took = [f"{name} {duration(curves.seconds_of(context.inputs[f'train_{name}']))}" for name in trained]
    sizes = sorted({int(info["parameters"]) for info in trained.values()})
    samples = f"{sum(r['num_samples'] for r in results):,}, seeds {', '.join(map(str, results[0]['seeds']))}"
    return {
        "made": time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        "by": made_by(),
        "data": "; ".join(data),
        "network": f"{' or '.join(f'{n:,}' for n in sizes)} weights",
        "training": ", ".join(took),
        "samples": samples,
    }


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


def trajectories(results: list[dict[str, Any]], config: ReportSpec, context: Context) -> str:
    """A sample of the best sampler of each budget: of those whose trace was kept, the one with most corrections."""
    tokenizer = load_tokenizer(context.inputs["tokenizer"] / "tokenizer.json")
    corpus = config.source and open_corpus(config.source)
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
        title = f"{row['calls']:.1f} calls: {row['sampler']}, {row['metric']} {as_measured(row)[0]:.3f}"
        found = trajectory.without_padding(trajectory.frames(shown["tokens"], shown["trace"]), tokenizer.pad_id)
        said = [f"sample {shown['sample_index']}: {shown['calls']} calls, {shown['edits']} corrections"]
        if corpus is not None:
            said.append(verdict(found, corpus, tokenizer, shown["num_prompt"]))
        if folded_away := len(shown["tokens"]) - len(found[0].tokens):
            said.append(f"{folded_away} positions of padding are left out")
        parts.append(f"<h3>{html.escape(title)}</h3><p><small>{html.escape('; '.join(said))}</small></p>")
        parts.append(trajectory.draw(found, tokenizer.show, shown["num_prompt"]))
    return "".join(parts)


def verdict(found: list[Frame], corpus: Any, tokenizer: Tokenizer, num_prompt: int) -> str:
    """Is the row valid, since when, and what made it so?"""

    def obeys(frame: Frame) -> bool:
        prompt, text = frame.tokens[:num_prompt], frame.tokens[num_prompt:]
        return bool(corpus.obeys(tokenizer.decode(prompt), tokenizer.decode(text)))

    full = [f for f in found if tokenizer.mask_id not in f.tokens]
    if not full or not obeys(full[-1]):
        return "not valid"
    since = len(full) - 1
    while since and obeys(full[since - 1]):
        since -= 1
    if not since:
        return f"valid since it was full, after call {full[0].call}"
    now, before = full[since], full[since - 1]
    changed = [
        f"position {place + 1} from {tokenizer.show(old)} to {tokenizer.show(new)}"
        for place, (old, new) in enumerate(zip(before.tokens, now.tokens, strict=True))
        if old != new
    ]
    return f"full and not valid after call {before.call}; call {now.call} mended it: {', '.join(changed)}"


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
