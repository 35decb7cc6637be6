"""What a run is: its sections, typed. No YAML and no torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.config import RuntimeConfig
from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.errors import Problem
from components.models.config import ModelConfig
from components.objectives import supervises_visible, trains_heads_only
from components.samplers import SamplerConfig
from components.training.config import TrainConfig


@dataclass(frozen=True)
class SamplingConfig:
    """One sampler on one model, at one or several budgets."""

    model: str = ""
    """Name of the training whose export is sampled."""
    sampler: Any = field(default_factory=SamplerConfig)
    steps: tuple[int, ...] = ()
    """Budgets: the sampler is run once for each number of steps. Empty uses sampler.steps."""
    allow_untrained: bool = False
    """Run a sampler that the model was not trained for, as a control."""


@dataclass(frozen=True)
class GenerateConfig:
    """How many samples, and of what."""

    num_samples: int = 256
    """For each seed."""
    seeds: tuple[int, ...] = (0,)
    prompts: Literal["none", "validation", "test"] = "none"
    """Continue the prompts of that split, in order and again from the start, or nothing."""
    shard_rows: int = 256
    lanes: int = 64
    """Rows that share a forward. Part of the identity: the last bits of logits depend on it."""
    deterministic: bool = True
    num_traced: int = 4
    """Rows whose trajectory is kept, for the report."""

    def problems(self, path: str) -> list[Problem]:
        found = []
        for name in ("num_samples", "shard_rows", "lanes"):
            if getattr(self, name) < 1:
                found.append(Problem(f"{path}.{name}", getattr(self, name), "at least 1", "set it to 1 or more"))
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            found.append(Problem(f"{path}.seeds", self.seeds, "one or more different seeds", "e.g. [0, 1, 2]"))
        return found


@dataclass(frozen=True)
class RunConfig:
    """A whole run, from corpus to report."""

    name: str = ""
    corpora: dict[str, CorpusConfig] = field(default_factory=dict)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    rows: RowsConfig = field(default_factory=RowsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: dict[str, TrainConfig] = field(default_factory=dict)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    samplers: dict[str, SamplingConfig] = field(default_factory=dict)
    scorers: dict[str, Any] = field(default_factory=dict)
    metric: str = ""
    """Column that the report ranks by; the first scorer's where empty."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass(frozen=True)
class Comparison:
    """The same trainings and samplers on several tasks, each from several training seeds."""

    name: str
    tasks: dict[str, RunConfig]
    seeds: tuple[int, ...] = (0,)
    """Added to the seed of every training."""
    one_seed: tuple[str, ...] = ()
    """Trainings that are made from the first seed only."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def budgets(sampling: SamplingConfig) -> list[SamplerConfig]:
    """The sampler once for each of its budgets."""
    if not sampling.steps:
        return [sampling.sampler]
    return [dataclasses.replace(sampling.sampler, steps=steps) for steps in sampling.steps]


def lineage(run: RunConfig, name: str) -> list[TrainConfig]:
    """A training and those that it started from, the first one first."""
    found: list[TrainConfig] = []
    while name and name in run.train and run.train[name] not in found:
        found.insert(0, run.train[name])
        name = run.train[name].init_from
    return found


def model_of(run: RunConfig, name: str) -> ModelConfig:
    """The run's model with the heads and the encoder that a training's objectives brought along."""
    changes: dict[str, Any] = {}
    for train in lineage(run, name):
        changes |= getattr(train.objective, "model_changes", {})
    return dataclasses.replace(run.model, **changes)


def taught_visible(run: RunConfig, name: str) -> bool:
    """Was the trunk that a training ends with taught what to say at visible positions?"""
    trunk = [t for t in lineage(run, name) if not trains_heads_only(t.objective)]
    return bool(trunk) and supervises_visible(trunk[-1].objective)
