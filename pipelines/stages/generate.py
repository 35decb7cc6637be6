"""Sample by replicas, shard by shard; a shard with a receipt is not made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.data.rows import TokenRows
from components.data.tokenizer import load_tokenizer
from components.errors import DataError
from components.samplers.prompt import Prompt
from components.samplers.shard import SampleShard
from components.store.samples import shard_is_done
from pipelines.stage import Context
from pipelines.workflows.main_job import GeneratePart


def run(config: GeneratePart, context: Context) -> Mapping[str, Any]:
    shards = plan_shards(config, context)
    folder = context.folder / "shards"
    folder.mkdir(exist_ok=True)
    todo = [s for s in shards if not shard_is_done(folder, s.name)]
    context.progress.total(len(shards), "shards")
    context.progress.to(len(shards) - len(todo))
    if todo:
        context.cluster().serve("sample", todo, lambda i, r: context.progress.advance())
    total = config.generate.num_samples * len(config.generate.seeds)
    return {"samples": total, "shards": [s.name for s in shards]}


def plan_shards(config: GeneratePart, context: Context) -> list[SampleShard]:
    """The fixed list of shards: for each seed, runs of ``shard_rows`` samples."""
    g = config.generate
    model = context.inputs["model"].absolute()
    prompts = prompts_of(config, context, model)
    shards: list[SampleShard] = []
    for seed in g.seeds:
        for start in range(0, g.num_samples, g.shard_rows):
            shards.append(
                SampleShard(
                    name=f"seed-{seed}-{start // g.shard_rows:05d}",
                    model=model,
                    sampler=config.sampler,
                    seed=seed,
                    prompts=tuple(prompts[start : start + g.shard_rows]),
                    length=config.length,
                    folder=(context.folder / "shards").absolute(),
                    num_lanes=g.lanes,
                    deterministic=g.deterministic,
                    num_traced=g.num_traced if not shards else 0,
                    device="cuda" if context.runtime.gpus else "cpu",
                    source=config.source,
                    judge=context.inputs["judge"].absolute() if "judge" in context.inputs else None,
                )
            )
    return shards


def prompts_of(config: GeneratePart, context: Context, model: Path) -> list[Prompt]:
    """One prompt for each sample of a seed."""
    number = config.generate.num_samples
    if config.generate.prompts == "none":
        return [Prompt(i) for i in range(number)]
    rows = TokenRows(context.inputs["rows"], config.generate.prompts)
    if not len(rows):
        raise DataError(
            f"The split {config.generate.prompts!r} is empty, so there is no prompt. Raise the corpus's "
            f"{config.generate.prompts}_share, or set generate.prompts=none."
        )
    import numpy as np

    tokenizer = load_tokenizer(model / "tokenizer.json")
    block = rows.take(np.arange(min(number, len(rows))))
    texts = [
        tokenizer.decode(tokens[:n].tolist(), stop_at_end=False)
        for tokens, n in zip(block.tokens, block.num_prompt, strict=True)
    ]
    return [Prompt(i, texts[i % len(texts)]) for i in range(number)]
