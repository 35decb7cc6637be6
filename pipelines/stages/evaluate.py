"""One table: each sampler at each budget, quality against calls, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from components.evaluation.frontier import SUMMARISED, summarise
from components.store.files import publish_text
from components.store.samples import KEYS, read_shards
from pipelines.graph.stage import Context
from pipelines.stages.spec import EvaluateSpec


def run(config: EvaluateSpec, context: Context) -> Mapping[str, Any]:
    column, larger = config.scorer.column, config.scorer.larger_is_better
    results = []
    context.progress.total(len(config.compared), "samplers")
    for role, compared in config.compared.items():
        names = context.infos[f"samples_{role}"]["shards"]
        samples = read_shards(context.inputs[f"samples_{role}"] / "shards", names, SUMMARISED)
        scores = read_shards(context.inputs[f"scores_{role}"] / "shards", names)
        described = asdict(compared)
        described["sampler"] = described.pop("name")
        results.append(described | summarise(samples, scores, column, larger) | other_means(scores))
        context.progress.advance()
    publish_text(context.folder / "results.json", json.dumps(results, indent=1))
    return {"results": results, "artifacts": ["results.json"]}


def other_means(scores: Any) -> dict[str, float]:
    """The mean of every score column, over the rows where it is a number; of one that nowhere is, none."""
    names = [n for n in scores.column_names if n not in KEYS]
    known = {n: values[~np.isnan(values)] for n in names for values in [scores[n].to_numpy()]}
    return {f"mean_{n}": float(values.mean()) for n, values in known.items() if len(values)}
