"""A shard of scores: the unit that a replica is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.data.corpora.config import SourceOptions
from components.data.tokenizer import load_tokenizer
from components.errors import SamplingError
from components.models.device import Placement
from components.models.weights import HOME, read_info
from components.samplers.needs import strange_label
from components.scorers.base import ScoredRow, ScorerSetting
from components.scorers.config import ScorerOptions, reads_model
from components.shards.model import loaded
from components.store.samples import KEYS, id_of, publish_shard, read_shard


@dataclass(frozen=True)
class ScoreShard:
    """Everything a replica needs to know, as plain values."""

    name: str
    folder: Path
    """Of the stage; tables lie in ``shards`` below it."""
    samples: Path
    """Parquet file of the samples."""
    scorers: Mapping[str, ScorerOptions]
    model: Path
    source: SourceOptions | None = None
    """The corpus whose rules apply."""
    trained: Mapping[str, Path] = field(default_factory=dict)
    """Folders of trained scorers, by name."""
    placement: Placement = HOME
    """Where the network computes, and in what precision."""

    def work(self) -> dict[str, Any]:
        """Score and publish the shard, row for row in the order of its samples. Returns its receipt."""
        table = read_shard(self.samples, [*KEYS, *SCORED])
        setting = ScorerSetting(
            tokenizer=load_tokenizer(self.model / "tokenizer.json"),
            source=self.source,
            model=loaded(self.model, self.placement).network if reads_model(self.scorers) else None,
            trained=self.trained,
            device=self.placement.device,
        )
        rows = rows_of(table)
        if setting.model is not None:
            require_known_classes(rows, read_info(self.model))
        scores = score_rows(rows, self.scorers, setting)
        columns = {name: table[name] for name in KEYS} | {n: pa.array(v, pa.float64()) for n, v in scores.items()}
        return publish_shard(self.folder / "shards", self.name, pa.table(columns), "score", sums_of(scores, table.num_rows))


def sums_of(scores: Mapping[str, list[float]], rows: int) -> dict[str, Any]:
    """What means are made of: of each column the sum and number of values, without those that are no number."""
    known = {name: [v for v in values if not math.isnan(v)] for name, values in scores.items()}
    return {"rows": rows, "sums": {n: sum(v) for n, v in known.items()}, "counts": {n: len(v) for n, v in known.items()}}


def require_known_classes(rows: Sequence[ScoredRow], info: Mapping[str, Any]) -> None:
    """Raises SamplingError where rows have classes that a network has not. One without any takes no notice of them."""
    for label in {row.label for row in rows} if info.get("num_classes") else ():
        if why := strange_label(label, info):
            raise SamplingError(f"Rows to be scored have {why}. Score them by the model that made them, or by one without classes.")


def score_rows(
    rows: list[ScoredRow], scorers: Mapping[str, ScorerOptions], setting: ScorerSetting
) -> dict[str, list[float]]:
    """Columns of all scorers."""
    columns: dict[str, list[float]] = {}
    for options in scorers.values():
        columns |= options.load()(options, setting)(rows)
    return columns


SCORED = ["prompt", "text", "tokens", "num_prompt", "given", "label"]
"""Columns of a sample table that scorers see."""


def rows_of(table: pa.Table) -> list[ScoredRow]:
    """A table of samples as scorers see it."""
    wanted = table.select(["row_id", *SCORED]).to_pylist()
    return [
        ScoredRow(
            id_of(r["row_id"]), r["prompt"], r["text"], tuple(r["tokens"]), r["num_prompt"], tuple(r["given"] or ()), r["label"]
        )
        for r in wanted
    ]
