"""Rows that nobody trained on, as the table of samples that were made by nobody, which the scoring stage reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from components.data.rows import TokenRows
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.errors import DataError
from components.shards.canvas import sample_id
from components.shards.prompt import Prompt
from components.store.samples import SAMPLES, publish_shard, row_id
from pipelines.graph.stage import Context
from pipelines.stages.spec import HeldOutSpec

SHARD_ROWS = 256
"""What a replica scores at a time."""


def run(config: HeldOutSpec, context: Context) -> Mapping[str, Any]:
    """Raises DataError where no corpus has such a row."""
    tokenizer = load_tokenizer(context.inputs["tokenizer"] / "tokenizer.json")
    names: list[str] = []
    found = 0
    for role in sorted(r for r in context.inputs if r.startswith("rows_")):
        rows = TokenRows(context.inputs[role], config.split)
        number = min(len(rows), config.rows)
        for start in range(0, number, SHARD_ROWS):
            index = np.arange(start, min(start + SHARD_ROWS, number), dtype=np.int64)
            names.append(f"{config.split}-{len(names):05d}")
            table = pa.Table.from_pylist(list(as_samples(rows, index, tokenizer)), SAMPLES)
            publish_shard(context.folder / "shards", names[-1], table, "held_out")
        found += number
    if not found:
        raise DataError(
            f"The split {config.split!r} of all corpora is empty, so there is nothing to hold models against. Raise "
            f"{config.split}_share of a corpus, or gate by metrics of samples."
        )
    return {"samples": found, "shards": names}


def as_samples(rows: TokenRows, index: Any, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """Rows as a table of samples has them. Equal rows have equal ids, wherever they stand. Where no loss was taken of
    padding, nobody wrote it: a network knows nothing of it."""
    block = rows.take(index)
    for place, tokens in enumerate(block.tokens.tolist()):
        prompt = int(block.num_prompt[place])
        label = None if block.label is None or np.isnan(block.label[place]) else float(block.label[place])
        id = sample_id(Prompt(0, tuple(tokens), label))
        end = int(block.size[place])
        pads = () if rows.pad_in_loss else (i for i in range(prompt, end) if tokens[i] == tokenizer.pad_id)
        given = [*pads, *range(end, len(tokens))]
        yield dict.fromkeys(SAMPLES.names) | {
            "row_id": row_id(id, 0), "prompt_id": f"{id:016x}", "sample_index": 0, "seed": 0, "tokens": tokens, "label": label, "given": given or None,
            "num_prompt": prompt, "prompt": tokenizer.decode(tokens[:prompt]), "text": tokenizer.decode(tokens[prompt:]),
        }  # fmt: skip
