"""Sample by replicas, shard by shard. Shards are cut by reference and one by one: nobody holds all prompts or rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

from components.data.rows import TokenRows
from components.data.tokenizer import load_tokenizer
from components.errors import ConfigError, DataError
from components.evaluation.batch_page import Example, batch_page, example_of
from components.models.device import Placement
from components.models.weights import read_info
from components.samplers.needs import exact_cache
from components.shards.model import Sampling
from components.shards.prompt import CorpusPrompts, FilePrompts, NoPrompts, PromptSource
from components.shards.sample import SampleShard
from components.store.files import publish_text
from components.store.samples import read_shard, shard_file
from pipelines.graph.stage import Context
from pipelines.stages.shards import key_of, make_shards, trained_scorers
from pipelines.stages.spec import PAGE, GenerateSpec

NUM_EXAMPLES = 3
CARD = "README.md"
CARD_TEXT = """---
configs:
- config_name: default
  data_files: shards/*.parquet
---

Samples of a masked diffusion language model, made by `proseco generate`: one row each, with the prompt, the text, what it
cost and what was corrected. `datasets.load_dataset` opens this folder, `pandas.read_parquet` the folder `shards` in it.
"""
"""Tells `datasets` where among the files of the stage the table is."""


def run(config: GenerateSpec, context: Context) -> Mapping[str, Any]:
    begun = time.monotonic()
    source, number = prompts_of(config, context)
    if wrong := [dataclasses.replace(p, path=f"generate.{p.path}") for p in config.generate.too_many(number)]:
        raise ConfigError(wrong)
    names = [name for name, _, _ in cuts(config, number)]
    made = make_shards(cut_shards(config, context, source, number), names, context)
    asked = number * len(config.generate.seeds)
    account = made.account
    if account.rows + account.quarantined != asked:
        raise DataError(
            f"{asked} samples were asked for, {account.rows} were made and {account.quarantined} quarantined: some were "
            f"lost. Please report this."
        )
    if account.quarantined:
        context.progress.say(
            f"{account.quarantined} of {asked} rows could not be made; they are with their reasons in "
            f"{context.folder}/quarantine"
        )
    sums = account.plain() | {"samples": account.rows} | account.rates()
    del sums["rows"]
    info = sums | {"rows_per_s": made.rows_per_s, "retries": made.retries, "reissued": made.reissues}
    info |= {"cache_exact": exact_cache(config.sampler, read_info(context.inputs["model"]))}
    page = batch_page(info | {"seconds": time.monotonic() - begun}, examples(context, names[0]), context.folder.name)
    publish_text(context.folder / PAGE, page)
    publish_text(context.folder / CARD, CARD_TEXT)
    return info | {"artifacts": [PAGE], "shards": names}


def examples(context: Context, name: str) -> list[Example]:
    """The rows of a shard with most corrections."""
    table = read_shard(shard_file(context.folder / "shards", name), ["row_id", "tokens", "edits", "corrections"])
    rows = [row for row in table.sort_by([("edits", "descending")]).slice(0, NUM_EXAMPLES).to_pylist() if row["corrections"]]
    tokenizer = load_tokenizer(context.inputs["model"] / "tokenizer.json")
    return [example_of(row, tokenizer.show) for row in rows]


def prompts_of(config: GenerateSpec, context: Context) -> tuple[PromptSource, int]:
    """Where prompts lie, and how many samples there are of each seed."""
    g = config.generate
    if "prompts" in context.inputs:
        info = context.infos["prompts"]
        parts = tuple((str(name), int(rows)) for name, rows in info["parts"])
        folder = context.inputs["prompts"]
        return FilePrompts(folder, parts, g.num_samples, bool(info["repeated"])), int(info["prompts"]) * g.num_samples
    if g.prompts == "none":
        return NoPrompts(g.labels), g.num_samples
    if not len(TokenRows(context.inputs["rows"], g.prompts)):
        raise DataError(
            f"The split {g.prompts!r} is empty, so there is no prompt. Raise the corpus's "
            f"{g.prompts}_share, or set generate.prompts=none."
        )
    return CorpusPrompts(context.inputs["rows"], g.prompts, g.labels), g.num_samples


def cuts(config: GenerateSpec, number: int) -> Iterator[tuple[str, int, int]]:
    """(name, seed, number of the first sample) of every shard: for each seed, runs of ``shard_rows`` samples."""
    size = config.generate.shard_rows
    for seed in config.generate.seeds:
        for start in range(0, number, size):
            yield f"seed-{seed}-{start // size:05d}", seed, start


def cut_shards(
    config: GenerateSpec, context: Context, source: PromptSource, number: int
) -> Iterator[SampleShard]:
    """The shards in order, each when it is asked for."""
    g = config.generate
    sampling = Sampling(
        sampler=config.sampler,
        num_lanes=g.lanes,
        deterministic=g.deterministic,
        source=config.source,
        trained=trained_scorers(context),
    )
    model_key = key_of(context, "model")
    for place, (name, seed, start) in enumerate(cuts(config, number)):
        yield SampleShard(
            name=name,
            folder=context.folder,
            model=context.inputs["model"],
            sampling=sampling,
            start=start,
            stop=min(start + g.shard_rows, number),
            length=config.length,
            prompts=source,
            seed=seed,
            num_traced=g.num_traced if place == 0 else 0,
            corrections=g.corrections,
            scorers=config.scorers,
            model_key=model_key,
            placement=Placement(context.runtime.placed_on, config.dtype),
        )
