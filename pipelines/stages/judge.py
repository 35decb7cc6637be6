"""Train the n-gram judge on the training rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from components.data.rows import TokenRows
from components.data.tokenizer import load_tokenizer
from components.scorers import judge
from pipelines.stage import Context
from pipelines.workflows.main_job import JudgePart


def run(config: JudgePart, context: Context) -> Mapping[str, Any]:
    tokenizer = load_tokenizer(context.inputs["tokenizer"] / "tokenizer.json")
    corpora = [TokenRows(p, "train") for role, p in context.inputs.items() if role.startswith("rows_")]
    rows = np.concatenate([c.take(np.arange(len(c))).tokens for c in corpora]).astype(np.int64)
    judge.train(rows, tokenizer.vocab_size, tokenizer.pad_id, config.judge, context.folder / judge.FILE)
    return {"rows": len(rows), "order": config.judge.order}
