"""Score samples by replicas, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.scorers.shard import ScoreShard
from components.store.samples import shard_file, shard_is_done
from pipelines.stage import Context
from pipelines.workflows.main_job import ScorePart


def run(config: ScorePart, context: Context) -> Mapping[str, Any]:
    folder = context.folder / "shards"
    folder.mkdir(exist_ok=True)
    judge = context.inputs.get("judge")
    shards = [
        ScoreShard(
            name=name,
            samples=shard_file(context.inputs["samples"] / "shards", name).absolute(),
            scorers=config.scorers,
            source=config.source,
            model=context.inputs["model"].absolute(),
            judge=judge.absolute() if judge else None,
            folder=folder.absolute(),
        )
        for name in context.infos["samples"]["shards"]
    ]
    todo = [s for s in shards if not shard_is_done(folder, s.name)]
    context.progress.total(len(shards), "shards")
    context.progress.to(len(shards) - len(todo))
    if todo:
        context.cluster().serve("score", todo, lambda i, r: context.progress.advance())
    return {"shards": [s.name for s in shards]}
