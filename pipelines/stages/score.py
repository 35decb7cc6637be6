"""Score samples, or texts of a file, by replicas, shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.models.device import Placement
from components.shards.score import ScoreShard
from components.store.samples import shard_file, shard_receipt
from pipelines.graph.stage import Context
from pipelines.stages.shards import make_shards, trained_scorers
from pipelines.stages.spec import ScoreSpec


def run(config: ScoreSpec, context: Context) -> Mapping[str, Any]:
    samples: Path = context.inputs["samples"] / "shards"
    names = list(context.infos["samples"]["shards"])
    made = make_shards(cut_shards(config, context, samples, names), names, context)
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for name in names:
        account = (shard_receipt(context.folder / "shards", name) or {})["account"]
        sums.update(account["sums"])
        counts.update(account["counts"])
    means = {name: sums[name] / counts[name] for name in sums if counts[name]}
    for column in sorted(options.column for options in config.scorers.values()):
        if left_out := made.account.rows - counts[column]:
            context.progress.say(
                f"{left_out} of {made.account.rows} rows have no number as {column}, and its mean is without them: the network "
                f"or the scorer said NaN of them. They are NaN in the tables of {context.folder}/shards."
            )
    return {"scored": made.account.rows, "means": means, "shards": names}


def cut_shards(config: ScoreSpec, context: Context, samples: Path, names: list[str]) -> Iterator[ScoreShard]:
    for name in names:
        yield ScoreShard(
            name=name,
            folder=context.folder,
            samples=shard_file(samples, name),
            scorers=config.scorers,
            model=context.inputs["model"],
            source=config.source,
            trained=trained_scorers(context),
            placement=Placement(context.runtime.placed_on, config.dtype),
        )
