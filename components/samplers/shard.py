"""A shard of samples: the unit that a replica is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from components import faults
from components.data.prompts import canvas
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.models.transformer import Transformer
from components.models.weights import load_model
from components.samplers.config import SamplerConfig
from components.samplers.engine import Engine, Row, Sample
from components.samplers.sampler import RowSampler
from components.store.samples import SAMPLES, publish_shard


@dataclass(frozen=True)
class Prompt:
    """What to continue, and under which number."""

    index: int
    text: str = ""
    label: int | None = None


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


@lru_cache(maxsize=4)
def model_of(folder: Path, device: str) -> tuple[Transformer, Tokenizer]:
    """Model and tokenizer of an exported folder; a replica keeps the last few."""
    return load_model(folder).to(device), load_tokenizer(folder / "tokenizer.json")


def sample_shard(shard: SampleShard) -> dict[str, Any]:
    """Make and publish one shard. Returns its receipt."""
    model, tokenizer = model_of(shard.model, shard.device)
    rows = [
        canvas(tokenizer, shard.length, p.index, p.text, p.label, trace=place < shard.num_traced)
        for place, p in enumerate(shard.prompts)
    ]
    samples = sample_rows(
        model, tokenizer, shard.sampler, rows, shard.seed, shard.num_lanes, shard.deterministic, shard.device
    )
    faults.point("generate.mid_shard")
    table = sample_table(samples, rows, shard, tokenizer)
    return publish_shard(shard.folder, shard.name, table, "generate")


def sample_rows(
    model: Transformer,
    tokenizer: Tokenizer,
    config: SamplerConfig,
    rows: list[Row],
    seed: int,
    num_lanes: int,
    deterministic: bool,
    device: str = "cpu",
) -> list[Sample]:
    """Samples in the order of the rows."""
    sampler = RowSampler(config, tokenizer.mask_id, (tokenizer.unknown_id,))
    engine = Engine(model, sampler, num_lanes, seed, deterministic, device)
    found = {sample.id: sample for sample in engine.run(rows)}
    return [found[row.id] for row in rows]


def sample_table(samples: list[Sample], rows: list[Row], shard: SampleShard, tokenizer: Tokenizer) -> pa.Table:
    records = []
    for sample, row, prompt in zip(samples, rows, shard.prompts, strict=True):
        num_prompt = sum(row.fixed)
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
