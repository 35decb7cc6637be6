"""Score samples by replicas, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.models.device import Placement
from components.shards.score import ScoreShard
from components.store.samples import shard_file
from pipelines.graph.stage import Context
from pipelines.stages.shards import make_shards, trained_scorers
from pipelines.stages.spec import ScoreSpec


def run(config: ScoreSpec, context: Context) -> Mapping[str, Any]:
    samples: Path = context.inputs["samples"] / "shards"
    shards = [
        ScoreShard(
            name=name,
            folder=(context.folder / "shards").absolute(),
            samples=shard_file(samples, name).absolute(),
            scorers=config.scorers,
            model=context.inputs["model"].absolute(),
            source=config.source,
            trained=trained_scorers(context),
            placement=Placement(context.runtime.placed_on, config.dtype),
        )
        for name in context.infos["samples"]["shards"]
    ]
    make_shards(shards, context)
    return {"shards": [s.name for s in shards]}
