"""A model as a replica holds it, and engines around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from components.data.corpora.config import SourceOptions
from components.data.tokenizer import Tokenizer, load_tokenizer
from components.errors import ConfigError, SamplingError
from components.models.device import Placement, device_problems
from components.models.transformer import Transformer
from components.models.weights import load_model
from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Row, Sample, Vocabulary
from components.samplers.engine import Engine, Session
from components.samplers.sampler import build_sampler
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


Outcome = Sample | SamplingError
"""What became of a row: an error where it needed more calls than its sampler promised."""
Run = Callable[[SamplerConfig, Sequence[Row]], list[Outcome]]
"""Has rows sampled, and gives what became of each in their order."""


def running(engine: Engine) -> Run:
    """Rows through an engine that nobody else uses meanwhile."""

    def run(sampler: SamplerConfig, rows: Sequence[Row]) -> list[Outcome]:
        places = {engine.submit(sampler, row): place for place, row in enumerate(rows)}
        found: dict[int, Outcome] = {}
        while not engine.idle:
            found |= {places[ticket]: outcome for ticket, outcome in engine.step().items()}
        return [found[place] for place in range(len(rows))]

    return run


def sample_rows(model: Loaded, sampling: Sampling, rows: Sequence[Row]) -> list[Sample]:
    """Samples in the order of the rows, each drawn by its own ``Row.seed``.

    Raises:
        SamplingError: a row needed more calls than its sampler promised.
    """
    samples = []
    for outcome in running(engine_of(model, sampling))(sampling.sampler, rows):
        if isinstance(outcome, SamplingError):
            raise outcome
        samples.append(outcome)
    return samples
