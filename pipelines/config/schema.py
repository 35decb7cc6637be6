"""What a run is: its sections, typed. No YAML and no torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from cluster.config import RuntimeConfig
from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.errors import Problem
from components.models.config import ModelConfig
from components.options import Count, Natural, Seed, options
from components.outside import MAX_ROWS, MAX_SHARDS
from components.samplers import Sampler, SamplerConfig
from components.samplers.config import Steps
from components.scorers import Scorers
from components.training.config import TrainConfig

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=100)]
"""Becomes part of labels and file names."""


@options
class SamplingConfig:
    """One sampler on one model, at one or several budgets."""

    model: str = ""
    """Name of the training whose export is sampled."""
    sampler: Sampler = SamplerConfig()
    """A preset's name, or a section with ``preset`` and changes to it, or a YAML file of one."""
    steps: tuple[Steps, ...] = ()
    """Budgets: the sampler is run once for each number of steps. Empty uses sampler.steps."""
    allow_untrained: bool = False
    """Run a sampler that the model was not trained for, as a control."""


@options
class GenerateConfig:
    """How many samples, and of what."""

    num_samples: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 256
    """For each seed."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Sampling seeds, all different."""
    prompts: Literal["none", "validation", "test"] = "none"
    """Continue the prompts of that split, in order and again from the start, or nothing."""
    labels: tuple[float, ...] = ()
    """Classes, or values of a property, that samples are asked for with, in turn, by networks that are conditioned on
    one. Empty asks for none, and where prompts of a corpus are continued for those of its rows."""
    shard_rows: Count = 256
    """Rows that one replica is asked for at a time."""
    lanes: Annotated[int, Field(ge=1, le=1 << 16)] = 64
    """Rows that share a forward. Part of the identity: the last bits of logits depend on it."""
    deterministic: bool = True
    """One shape for every forward, or shapes that were seen to give the same bits, so that a row does not depend on its company."""
    num_traced: Natural = 4
    """Rows whose trajectory is kept, for the report."""
    corrections: Literal["none", "changed"] = "changed"
    """``changed`` keeps of every row which call changed which written token; searches have none, as chains die and
    split."""

    def problems(self) -> Iterator[Problem]:
        """Broken rules between options; paths begin below the section."""
        if len(set(self.seeds)) != len(self.seeds):
            yield Problem("seeds", self.seeds, "one or more different seeds", "e.g. [0, 1, 2]")
        yield from self.too_many(self.num_samples)

    def too_many(self, rows: int) -> Iterator[Problem]:
        """Why so many rows of each seed are no table; paths begin below the section."""
        number, shards = rows * len(self.seeds), -(-rows // self.shard_rows) * len(self.seeds)
        if number > MAX_ROWS:
            rule = f"at most {MAX_ROWS} rows in a table, and these are {number}: of more, two might have one id"
            yield Problem("num_samples", self.num_samples, rule, "make several tables, each with seeds of its own")
        elif shards > MAX_SHARDS:
            rule = f"at most {MAX_SHARDS} shards, and {number} rows are {shards} of them"
            yield Problem("shard_rows", self.shard_rows, rule, f"raise it to {-(-number // MAX_SHARDS)} or more")


@options
class RunConfig:
    """A whole run, from corpus to report."""

    workflow: ClassVar[str] = "main_job"
    """How a YAML names this kind of run."""
    command: ClassVar[str] = "run"
    """Of ``proseco``, by which it is made."""

    name: Name = "run"
    """Of the run; the file's own where it is not given."""
    corpora: dict[Name, CorpusConfig] = dataclasses.field(default_factory=dict)
    """What is learned from, by name."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Shared by all corpora."""
    rows: RowsConfig = RowsConfig()
    """How documents become rows."""
    model: ModelConfig = ModelConfig()
    """Shape of the network."""
    train: dict[Name, TrainConfig] = dataclasses.field(default_factory=dict)
    """Trainings by name; one may start from another."""
    generate: GenerateConfig = GenerateConfig()
    """How many samples."""
    samplers: dict[Name, SamplingConfig] = dataclasses.field(default_factory=dict)
    """Samplers by name, each on the model of a training."""
    scorers: Scorers = dataclasses.field(default_factory=dict)
    """What samples are scored by."""
    metric: str = ""
    """Scorer that the report ranks by; the first one where empty."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Where and how it is carried out."""


@options
class Comparison:
    """The same trainings and samplers on several tasks, each from several training seeds."""

    workflow: ClassVar[str] = "compare"
    """How a YAML names this kind of run."""
    command: ClassVar[str] = "run"
    """Of ``proseco``, by which it is made."""

    name: Name = "comparison"
    """Of the comparison; the file's own where it is not given."""
    tasks: dict[Name, RunConfig] = dataclasses.field(default_factory=dict)
    """Runs, by the name of what is learned."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Added to the seed of every training."""
    one_seed: tuple[str, ...] = ()
    """Trainings that are made from the first seed only."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Where and how it is carried out."""


def budgets(sampling: SamplingConfig) -> list[SamplerConfig]:
    """The sampler once for each of its budgets."""
    if not sampling.steps:
        return [sampling.sampler]
    return [sampling.sampler.with_steps(steps) for steps in sampling.steps]


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
        changes |= train.objective.model_changes()
    return dataclasses.replace(run.model, **changes)


def taught_visible(run: RunConfig, name: str) -> bool:
    """Was the trunk that a training ends with taught what to say at visible positions?"""
    trunk = [t for t in lineage(run, name) if not t.objective.trains_heads_only()]
    return bool(trunk) and trunk[-1].objective.teaches_visible()


def total_passes(run: RunConfig, name: str) -> int:
    """Forward-backwards that a training and those that it started from took."""
    train = run.train[name]
    own = round(train.steps * train.objective.passes(train.steps))
    return own + (total_passes(run, train.init_from) if train.init_from else 0)
