"""Train what a scorer scores with, on the training rows of all corpora."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from components.data.rows import TokenRows
from components.data.tokenizer import load_tokenizer
from components.plugins import locate
from components.scorers.base import Train
from pipelines.graph.stage import Context
from pipelines.stages.spec import FitSpec


def run(config: FitSpec, context: Context) -> Mapping[str, Any]:
    tokenizer = load_tokenizer(context.inputs["tokenizer"] / "tokenizer.json")
    corpora = [TokenRows(p, "train") for role, p in context.inputs.items() if role.startswith("rows_")]
    rows = np.concatenate([c.take(np.arange(len(c))).tokens for c in corpora]).astype(np.int64)
    train: Train = locate(config.scorer.trains)
    train(config.scorer, rows, tokenizer, context.folder)
    return {"rows": len(rows), "scorer": config.scorer.name}
