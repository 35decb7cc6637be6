"""Sample by replicas, shard by shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from components.data.rows import TokenRows
from components.errors import DataError
from components.models.device import Placement
from components.shards.prompt import Prompt
from components.shards.sample import SampleShard, Sampling
from pipelines.graph.stage import Context
from pipelines.stages.shards import make_shards, trained_scorers
from pipelines.stages.spec import GenerateSpec


def run(config: GenerateSpec, context: Context) -> Mapping[str, Any]:
    shards = cut_shards(config, context)
    make_shards(shards, context)
    return {"samples": sum(len(s.prompts) for s in shards), "shards": [s.name for s in shards]}


def cut_shards(config: GenerateSpec, context: Context) -> list[SampleShard]:
    """The fixed list of shards: for each seed, runs of ``shard_rows`` samples."""
    g = config.generate
    prompts = read_prompts(config, context)
    shards: list[SampleShard] = []
    for seed in g.seeds:
        sampling = Sampling(
            sampler=config.sampler,
            num_lanes=g.lanes,
            deterministic=g.deterministic,
            source=config.source,
            trained=trained_scorers(context),
        )
        for start in range(0, len(prompts), g.shard_rows):
            shards.append(
                SampleShard(
                    name=f"seed-{seed}-{start // g.shard_rows:05d}",
                    folder=(context.folder / "shards").absolute(),
                    model=context.inputs["model"].absolute(),
                    sampling=sampling,
                    prompts=tuple(prompts[start : start + g.shard_rows]),
                    length=config.length,
                    seed=seed,
                    num_traced=g.num_traced if not shards else 0,
                    placement=Placement(context.runtime.placed_on, config.dtype),
                )
            )
    return shards


def read_prompts(config: GenerateSpec, context: Context) -> list[Prompt]:
    """One prompt for each sample of a seed, as the token ids that training saw."""
    number = config.generate.num_samples
    if config.prompts:
        return [dataclasses.replace(p, index=i) for p in config.prompts for i in range(number)]
    if config.generate.prompts == "none":
        return [Prompt(i) for i in range(number)]
    rows = TokenRows(context.inputs["rows"], config.generate.prompts)
    if not len(rows):
        raise DataError(
            f"The split {config.generate.prompts!r} is empty, so there is no prompt. Raise the corpus's "
            f"{config.generate.prompts}_share, or set generate.prompts=none."
        )
    block = rows.take(np.arange(min(number, len(rows))))
    prompts = [tuple(tokens[:n].tolist()) for tokens, n in zip(block.tokens, block.num_prompt, strict=True)]
    return [Prompt(i, (prompts[i % len(prompts)],)) for i in range(number)]
