"""A shard of scores: the unit that a replica is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.data.tokenizer import load_tokenizer
from components.samplers.shard import loaded
from components.scorers import SCORERS
from components.scorers.base import ScoredRow, ScorerSetting
from components.store.samples import publish_shard, read_shard


@dataclass(frozen=True)
class ScoreShard:
    """Everything a replica needs to know, as plain values."""

    name: str
    samples: Path
    """Parquet file of the samples."""
    scorers: Mapping[str, Any]
    """Name to config."""
    source: Any
    """Config of the corpus whose rules apply."""
    model: Path
    judge: Path | None
    folder: Path


def score_shard(shard: ScoreShard) -> dict[str, Any]:
    """Score and publish one shard, row for row in the order of its samples. Returns its receipt."""
    table = read_shard(shard.samples)
    tokenizer = load_tokenizer(shard.model / "tokenizer.json")
    needs_model = any("model" in SCORERS[name].needs for name in shard.scorers)
    setting = ScorerSetting(
        tokenizer=tokenizer,
        source=shard.source,
        model=loaded(shard.model, "cpu").network if needs_model else None,
        judge=shard.judge,
    )
    columns = table.select(["sample_id", "seed", "index"]).to_pydict()
    for name, values in score_rows(rows_of(table), shard.scorers, setting).items():
        columns[name] = values
    return publish_shard(shard.folder, shard.name, pa.table(columns), "score")


def score_rows(rows: list[ScoredRow], scorers: Mapping[str, Any], setting: ScorerSetting) -> dict[str, list[float]]:
    """Columns of all scorers."""
    columns: dict[str, list[float]] = {}
    for name, config in scorers.items():
        columns |= SCORERS[name].load()(config, setting)(rows)
    return columns


def rows_of(table: pa.Table) -> list[ScoredRow]:
    wanted = table.select(["sample_id", "prompt", "text", "tokens", "num_prompt"]).to_pylist()
    return [ScoredRow(r["sample_id"], r["prompt"], r["text"], tuple(r["tokens"]), r["num_prompt"]) for r in wanted]
