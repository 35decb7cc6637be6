"""A shard of samples: the unit that a replica is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from components import faults
from components.data.prompts import canvas, num_leading
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.models.transformer import Transformer
from components.models.weights import load_model
from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Vocabulary
from components.samplers.engine import Engine, Row, Sample
from components.samplers.prompt import Prompt
from components.samplers.reward import reward_of
from components.samplers.search import build
from components.scorers.base import ScorerSetting
from components.store.samples import SAMPLES, publish_shard


@dataclass(frozen=True)
class SampleShard:
    """Everything a replica needs to know, as plain values."""

    name: str
    model: Path
    sampler: SamplerConfig
    seed: int
    prompts: tuple[Prompt, ...]
    length: int
    folder: Path
    num_lanes: int
    deterministic: bool = True
    num_traced: int = 0
    """The first so many rows keep their trajectory."""
    device: str = "cpu"
    source: Any = None
    """Config of the corpus whose rules a reward may read."""
    judge: Path | None = None


@dataclass(frozen=True)
class Loaded:
    """What a replica holds of an exported folder."""

    network: Transformer
    tokenizer: Tokenizer
    extras: Extras


def load(folder: Path, device: str) -> Loaded:
    """Model, tokenizer and what parts of samplers need besides."""
    network = load_model(folder).to(device)
    embedding = None if network.encoder is None else network.encoder.table().detach()
    extras = Extras(network.policy, embedding)
    return Loaded(network, load_tokenizer(folder / "tokenizer.json"), extras)


loaded = lru_cache(maxsize=4)(load)
"""A replica keeps the last few."""


def sample_shard(shard: SampleShard) -> dict[str, Any]:
    """Make and publish one shard. Returns its receipt."""
    model = loaded(shard.model, shard.device)
    rows = [
        canvas(model.tokenizer, shard.length, p.index, p.text, p.label, p.template, place < shard.num_traced)
        for place, p in enumerate(shard.prompts)
    ]
    setting = ScorerSetting(model.tokenizer, shard.source, model.network, shard.judge)
    samples = sample_rows(
        model, shard.sampler, rows, shard.seed, shard.num_lanes, shard.deterministic, shard.device, setting
    )
    faults.point("generate.mid_shard")
    table = sample_table(samples, rows, shard, model.tokenizer)
    return publish_shard(shard.folder, shard.name, table, "generate")


def sample_rows(
    model: Loaded,
    config: SamplerConfig,
    rows: list[Row],
    seed: int,
    num_lanes: int,
    deterministic: bool,
    device: str,
    setting: ScorerSetting,
) -> list[Sample]:
    """Samples in the order of the rows. ``setting`` is what rewards of searches may need."""
    tokenizer = model.tokenizer
    vocabulary = Vocabulary(tokenizer.mask_id, (tokenizer.unknown_id,), tokenizer.end_id)
    sampler = build(config, vocabulary, model.extras)
    engine = Engine(model.network, sampler, num_lanes, seed, deterministic, device, reward_of(config, setting))
    found = {sample.id: sample for sample in engine.run(sorted(rows, key=lambda row: len(row.canvas)))}
    return [found[row.id] for row in rows]


def sample_table(samples: list[Sample], rows: list[Row], shard: SampleShard, tokenizer: Tokenizer) -> pa.Table:
    records = []
    for sample, row, prompt in zip(samples, rows, shard.prompts, strict=True):
        num_prompt = num_leading(row)
        records.append(
            {
                "sample_id": sample.id,
                "seed": shard.seed,
                "index": prompt.index,
                "prompt": prompt.text,
                "label": prompt.label,
                "text": tokenizer.decode(sample.tokens[num_prompt:]),
                "tokens": list(sample.tokens),
                "num_prompt": num_prompt,
                "calls": sample.calls,
                "call_positions": sample.call_positions,
                "reward_calls": sample.reward_calls,
                "edits": sample.edits,
                "deterministic": shard.deterministic,
                "trace": [asdict(e) for e in sample.trace] if row.trace else None,
            }
        )
    return pa.Table.from_pylist(records, SAMPLES)
