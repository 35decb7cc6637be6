"""A model as a replica holds it, and engines around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from components.data.corpora.config import SourceOptions
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.errors import ConfigError, ModelError, SamplingError
from components.models.denoiser import Denoiser, Prediction
from components.models.device import Placement, device_problems, dtype_problems
from components.models.transformer import Transformer
from components.models.weights import load_model
from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Row, Sample, Vocabulary
from components.samplers.engine import Engine, Session
from components.samplers.sampler import build_sampler
from components.samplers.sizes import Sizes
from components.scorers.base import ScorerSetting
from components.shards.reward import reward_of


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
class Loaded:
    """What a replica holds of an exported folder."""

    network: Transformer
    tokenizer: Tokenizer
    extras: Extras
    sizes: Sizes = field(default_factory=Sizes, kw_only=True)
    """Forwards that were tried so far, for all engines around it."""

    @property
    def device(self) -> str:
        return str(next(self.network.parameters()).device)


def load(folder: Path, placement: Placement) -> Loaded:
    """Model, tokenizer and what parts of samplers need besides.

    Raises:
        ConfigError: this machine has no such device, or it does not compute so.
        ModelError: the folder is not an export of ours, or its parts do not belong together.
    """
    if lost := [*device_problems(placement.device), *dtype_problems(placement.device, placement.dtype)]:
        raise ConfigError(lost)
    network, words = load_model(folder, placement), load_tokenizer(folder / "tokenizer.json")
    if words.vocab_size > network.vocab_size:
        raise ModelError(
            f"The tokenizer in {folder} has ids up to {words.vocab_size - 1}, and its network {network.vocab_size} embeddings. They "
            f"do not belong together: export or import the model again."
        )
    return Loaded(network, words, extras_of(network))


def extras_of(network: Transformer) -> Extras:
    """What parts of samplers need of a network besides its outputs."""
    extras = Extras(network.policy, attention_block=network.config.attention_block)
    if network.encoder is None:
        return extras
    return replace(extras, embedding=network.encoder.table().detach(), gamma_max=network.encoder.gamma_max)


loaded = lru_cache(maxsize=4)(load)
"""A replica keeps the last few."""


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """What a sampler is told of the ids of a model."""
    return Vocabulary(tokenizer.mask_id, (tokenizer.unknown_id,), tokenizer.end_id)


class Metered:
    """A network that counts the inputs of its forwards, padding included."""

    def __init__(self, network: Denoiser):
        self.network, self.forwards, self.lanes = network, 0, 0

    def __call__(self, tokens: Tensor, **given: Any) -> Prediction:
        self.forwards += 1
        self.lanes += len(tokens)
        return self.network(tokens, **given)


def engine_of(model: Loaded, sampling: Sampling, network: Denoiser | None = None) -> Engine:
    """An engine around a model, for rows of any sampler; ``sampling`` says how forwards are made and rewards known.

    Args:
        network: runs in place of the model's own, e.g. metered.
    """
    tokenizer, vocabulary = model.tokenizer, vocabulary_of(model.tokenizer)
    setting = ScorerSetting(tokenizer, sampling.source, model.network, sampling.trained, device=model.device)

    def open_session(config: SamplerConfig, length: int) -> Session:
        return Session(
            network or model.network,
            build_sampler(config, vocabulary, model.extras),
            length,
            num_lanes=sampling.num_lanes,
            deterministic=sampling.deterministic,
            device=model.device,
            reward=reward_of(config, setting),
        )

    return Engine(open_session, sizes=model.sizes)


Outcome = Sample | SamplingError
"""What became of a row: an error where it needed more calls than its sampler promised."""
Run = Callable[[SamplerConfig, Sequence[Row]], Mapping[int, Outcome]]
"""Has rows of different ids sampled, and gives what became of each by its id."""


def running(engine: Engine) -> Run:
    """Rows through an engine that nobody else uses meanwhile."""

    def run(sampler: SamplerConfig, rows: Sequence[Row]) -> dict[int, Outcome]:
        ids = {engine.submit(sampler, row): row.id for row in rows}
        found: dict[int, Outcome] = {}
        while not engine.idle:
            found |= {ids[ticket]: outcome for ticket, outcome in engine.step().items()}
        return found

    return run


def sample_rows(model: Loaded, sampling: Sampling, rows: Sequence[Row]) -> list[Sample]:
    """Samples in the order of the rows, each drawn by its own ``Row.seed``.

    Raises:
        SamplingError: a row needed more calls than its sampler promised.
    """
    samples = {s.id: s for s in engine_of(model, sampling).run(sampling.sampler, rows)}
    return [samples[row.id] for row in rows]
