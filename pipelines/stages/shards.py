"""What stages share that are made shard by shard: a shard with a receipt is not made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.shards.sample import SampleShard
from components.shards.score import ScoreShard
from components.store.samples import shard_is_done
from pipelines.graph.stage import Context


def make_shards(shards: Sequence[SampleShard | ScoreShard], context: Context) -> None:
    """Have replicas make all shards that are not there yet."""
    folder = context.folder / "shards"
    todo = [s for s in shards if not shard_is_done(folder, s.name)]
    context.progress.total(len(shards), "shards")
    context.progress.to(len(shards) - len(todo))
    if todo:
        context.cluster().serve(todo, lambda number, receipt: context.progress.advance())


def trained_scorers(context: Context) -> dict[str, Path]:
    """Folders of the scorers that were trained for this stage, by name."""
    return {role.removeprefix("fit_"): p.absolute() for role, p in context.inputs.items() if role.startswith("fit_")}
