"""A shard of samples: the unit that a replica is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from components import faults
from components.data.corpora.config import SourceOptions
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.errors import ConfigError
from components.models.device import Placement, device_problems
from components.models.transformer import Transformer
from components.models.weights import HOME, load_model
from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Row, Sample, Vocabulary
from components.samplers.engine import Engine, Session
from components.samplers.sampler import build_sampler
from components.scorers.base import ScorerSetting
from components.shards.canvas import canvas, num_leading
from components.shards.prompt import Prompt
from components.shards.reward import reward_of
from components.store.samples import SAMPLES, publish_shard


@dataclass(frozen=True)
class Sampling:
    """How rows are sampled, whichever they are."""

    sampler: SamplerConfig
    num_lanes: int = 64
    """Rows that share a forward."""
    deterministic: bool = True
    """The last bits of a row's logits do not depend on its company."""
    source: SourceOptions | None = None
    """The corpus whose rules a reward may read."""
    trained: Mapping[str, Path] = field(default_factory=dict)
    """Folders of trained scorers that a reward may read, by name."""


@dataclass(frozen=True)
class SampleShard:
    """Everything a replica needs to know, as plain values."""

    name: str
    folder: Path
    model: Path
    sampling: Sampling
    prompts: tuple[Prompt, ...]
    length: int
    seed: int = 0
    num_traced: int = 0
    """The first so many rows keep their trajectory."""
    placement: Placement = HOME
    """Where the network computes, and in what precision."""

    def work(self) -> dict[str, Any]:
        """Make and publish the shard. Returns its receipt."""
        model = loaded(self.model, self.placement)
        mask_id, seed = model.tokenizer.mask_id, self.seed
        rows = [canvas(p, self.length, mask_id, i < self.num_traced, seed) for i, p in enumerate(self.prompts)]
        samples = sample_rows(model, self.sampling, rows)
        faults.point("generate.mid_shard")
        table = sample_table(samples, rows, self, model.tokenizer)
        return publish_shard(self.folder, self.name, table, "generate")


@dataclass(frozen=True)
class Loaded:
    """What a replica holds of an exported folder."""

    network: Transformer
    tokenizer: Tokenizer
    extras: Extras

    @property
    def device(self) -> str:
        return str(next(self.network.parameters()).device)


def load(folder: Path, placement: Placement) -> Loaded:
    """Model, tokenizer and what parts of samplers need besides.

    Raises:
        ConfigError: this machine has no such device.
        ModelError: the folder is not an export of ours.
    """
    if lost := device_problems(placement.device):
        raise ConfigError(lost)
    network = load_model(folder, placement)
    embedding = None if network.encoder is None else network.encoder.table().detach()
    extras = Extras(network.policy, embedding)
    return Loaded(network, load_tokenizer(folder / "tokenizer.json"), extras)


loaded = lru_cache(maxsize=4)(load)
"""A replica keeps the last few."""


def engine_of(model: Loaded, sampling: Sampling) -> Engine:
    """An engine around a model, for rows of any sampler; ``sampling`` says how forwards are made and rewards known."""
    tokenizer = model.tokenizer
    vocabulary = Vocabulary(tokenizer.mask_id, (tokenizer.unknown_id,), tokenizer.end_id)
    setting = ScorerSetting(tokenizer, sampling.source, model.network, sampling.trained, device=model.device)

    def open_session(config: SamplerConfig, length: int) -> Session:
        return Session(
            model.network,
            build_sampler(config, vocabulary, model.extras),
            length,
            num_lanes=sampling.num_lanes,
            deterministic=sampling.deterministic,
            device=model.device,
            reward=reward_of(config, setting),
        )

    return Engine(open_session)


def sample_rows(model: Loaded, sampling: Sampling, rows: list[Row]) -> list[Sample]:
    """Samples in the order of the rows, each drawn by its own ``Row.seed``."""
    samples = {s.id: s for s in engine_of(model, sampling).run(sampling.sampler, rows)}
    return [samples[row.id] for row in rows]


def sample_table(samples: list[Sample], rows: list[Row], shard: SampleShard, tokenizer: Tokenizer) -> pa.Table:
    """The rows of a shard as they are stored."""
    records = []
    for sample, row, prompt in zip(samples, rows, shard.prompts, strict=True):
        num_prompt = num_leading(row)
        records.append(
            {
                "sample_id": sample.id,
                "seed": shard.seed,
                "index": prompt.index,
                "prompt": tokenizer.decode(sample.tokens[:num_prompt], stop_at_end=False),
                "label": prompt.label,
                "text": tokenizer.decode(sample.tokens[num_prompt:]),
                "tokens": list(sample.tokens),
                "num_prompt": num_prompt,
                "calls": sample.calls,
                "call_positions": sample.call_positions,
                "reward_calls": sample.reward_calls,
                "edits": sample.edits,
                "deterministic": shard.sampling.deterministic,
                "trace": [asdict(e) for e in sample.trace] if row.trace else None,
            }
        )
    return pa.Table.from_pylist(records, SAMPLES)
