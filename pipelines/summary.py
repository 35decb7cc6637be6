"""What a workflow came to, from the manifests of its stages: for trackers, which know nothing of stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.evaluation.best import as_measured
from components.evaluation.headline import headline
from components.store.artifact import read_manifest
from components.store.files import exists
from pipelines.graph.stage import Given, Stage, in_order


@dataclass(frozen=True)
class Export:
    """A model that was made."""

    name: str
    key: str
    folder: Path
    info: Mapping[str, Any]
    data: Mapping[str, str]
    """Digests of the rows that it was trained on, by corpus."""


@dataclass(frozen=True)
class Summary:
    """Numbers, words, models and the page."""

    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    exports: Sequence[Export]
    best: str = ""
    """Name of the export that did best; empty where nothing was compared."""
    report: Path | None = None


def summary_of(targets: Sequence[Stage], root: Path) -> Summary:
    """The summary of what is made of a workflow."""
    stages = in_order(list(targets))
    manifests = {s.key: m for s in stages if (m := read_manifest(s.folder(root))) is not None}
    results = [r for s in stages if s.name == "evaluate" and s.key in manifests for r in manifests[s.key].info["results"]]
    exports = [
        Export(s.label.removeprefix("export/"), s.key, s.folder(root), manifests[s.key].info, dict(data_of(s, root)))
        for s in stages
        if s.name == "export" and s.key in manifests
    ]
    pages = [path for s in stages if exists(path := s.folder(root) / "report.html")]
    page = pages[-1] if pages else None
    if not results:
        return Summary({}, {}, exports, report=page)
    best = headline(results).best
    tags = {"headline": str(headline(results)), "best.sampler": best["sampler"], "best.model": best["model"]}
    named = {"best": best} | {f"{r['sampler']}/{r['steps']} steps": r for r in results}
    return Summary({k: v for name, r in named.items() for k, v in numbers(name, r)}, tags, exports, best["model"], page)


def numbers(name: str, row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of one line of a comparison."""
    quality, low, high = as_measured(row)
    metric = row["metric"]
    yield from ((f"{name}/{metric}", quality), (f"{name}/{metric} low", low), (f"{name}/{metric} high", high))
    yield from ((f"{name}/{column}", float(row[column])) for column in ("calls", "unique", "entropy", "edits", "num_samples"))


def data_of(stage: Stage | Given, root: Path) -> Iterator[tuple[str, str]]:
    """The corpora below a stage, and what their rows come to."""
    if isinstance(stage, Given):
        return
    if stage.name == "tokenize" and (manifest := read_manifest(stage.folder(root))) is not None:
        yield stage.label.removeprefix("tokenize/"), manifest.result
    for below in stage.inputs.values():
        yield from data_of(below, root)
