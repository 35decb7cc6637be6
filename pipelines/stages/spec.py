"""What decides the result of each stage: the configs that are hashed into its key. Workflows make them, stages read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.data.corpora.config import SourceOptions
from components.data.prompts import PromptsConfig, Wanted
from components.evaluation.rule import Rule
from components.models.config import ModelConfig
from components.models.device import DTypeName
from components.samplers.config import SamplerConfig
from components.scorers.config import ScorerOptions
from components.store.content import Content
from components.training.config import TrainConfig
from pipelines.config.schema import GenerateConfig
from pipelines.graph.resources import Work
from pipelines.graph.stage import Given, Stage

WORK: Mapping[str, Work] = {
    "tokenize": "tasks",
    "prompts": "tasks",
    "train": "training",
    "generate": "replicas",
    "score": "replicas",
}
"""Where stages do their work, by name; the others do it in the driver."""
VERSIONS: Mapping[str, int] = {
    "tokenizer": 2, "tokenize": 3, "prompts": 3, "train": 5, "generate": 8, "held_out": 3, "score": 4, "evaluate": 2, "report": 3,
    "compare": 2,
}  # fmt: skip
"""Raised by hand when the code changes what a stage makes; 1 where none is named."""


def stage_of(name: str, label: str, config: Any, inputs: Mapping[str, Stage | Given]) -> Stage:
    """The stage that the module of its name makes."""
    run = f"pipelines.stages.{name}:run"
    return Stage(name, label, VERSIONS.get(name, 1), config, run, inputs, WORK.get(name, "driver"))


PAGE = "batch.html"
"""The page of a batch job, in the folder of its stage."""


@dataclass(frozen=True)
class TokenizerSpec:
    tokenizer: TokenizerConfig
    corpora: Mapping[str, CorpusConfig]
    pieces: int
    contents: Mapping[str, Content] = field(default_factory=dict)
    """What the files of corpora hold, where the vocabulary is learned from them."""
    file: Content | None = None
    """What a given tokenizer.json holds."""


@dataclass(frozen=True)
class TokenizeSpec:
    corpus: CorpusConfig
    rows: RowsConfig
    fast: str
    content: Content | None = None
    """What the files of the corpus hold."""


@dataclass(frozen=True)
class TrainSpec:
    model: ModelConfig
    train: TrainConfig
    weights: Mapping[str, float]
    """Share of each corpus in a batch, by the role of its rows."""
    source: SourceOptions | None = None
    """The corpus that rewards rollouts; only where the objective asks for one."""
    init: Content | None = None
    """The weights in ``train.init_folder``."""


@dataclass(frozen=True)
class ExportSpec:
    model: ModelConfig
    length: int
    trained_with: str
    paper: str
    visible_supervision: bool
    averaged: bool
    trained_precision: Literal["fp32", "bf16"] = "fp32"
    """What the network may be run in on a GPU."""


@dataclass(frozen=True)
class FitSpec:
    """A scorer that is trained before it scores."""

    scorer: ScorerOptions


@dataclass(frozen=True)
class PromptsSpec:
    """A user's file, as a model can read it."""

    prompts: PromptsConfig
    wanted: Wanted
    length: int
    """Positions of a row."""
    num_classes: int = 0
    """Classes that the model knows."""
    values: bool = False
    """It is conditioned on the value of a property."""
    content: Content | None = None
    """What the files hold."""


@dataclass(frozen=True)
class GenerateSpec:
    """Prompts come from the input ``prompts``, or from the rows of a corpus, or there are none."""

    sampler: SamplerConfig
    generate: GenerateConfig
    length: int
    source: SourceOptions | None = None
    """The corpus whose rules a reward or a scorer reads; only where one asks for it."""
    scorers: Mapping[str, ScorerOptions] = field(default_factory=dict)
    """Columns that are made along with the samples."""
    dtype: DTypeName = "float32"
    """What the network computes in, never ``auto``: rows of another dtype are other rows."""


@dataclass(frozen=True)
class ScoreSpec:
    scorers: Mapping[str, ScorerOptions]
    source: SourceOptions | None
    dtype: DTypeName = "float32"
    """What the network computes in; float32 where no scorer asks it."""


@dataclass(frozen=True)
class Compared:
    """One line of the comparison."""

    name: str
    model: str
    steps: int
    preset: str
    passes: int
    """Training forward-backwards of its model, those of what it started from included."""


@dataclass(frozen=True)
class HeldOutSpec:
    """Rows of corpora that nobody trained on, as a table of samples."""

    split: str
    rows: int
    """At most so many of each corpus."""


@dataclass(frozen=True)
class GateSpec:
    """What a candidate has to show against the champion. Tables are inputs: ``<table>_champion``, ``<table>_candidate``."""

    rules: Mapping[str, tuple[Rule, ...]]
    """By table: ``samples`` or ``held_out``."""
    confidence: float
    by_prompt: bool
    """Rows of one prompt are no independent evidence."""


@dataclass(frozen=True)
class EvaluateSpec:
    compared: Mapping[str, Compared]
    """By the role of its samples and scores."""
    scorer: ScorerOptions
    """Its main column is what samplers are ranked by."""


@dataclass(frozen=True)
class Trained:
    """What a reader must know of a training to compare it with others."""

    objective: str
    t_min: float
    """Bounds from different smallest times are different bounds."""
    before: int
    """Forward-backwards of what it started from."""
    passes: float
    """Of each of its own steps."""


@dataclass(frozen=True)
class ReportSpec:
    title: str
    run: Any
    """The configuration, for people."""
    trained: Mapping[str, Trained] = field(default_factory=dict)
    """By name."""
    source: SourceOptions | None = None
    """The corpus whose rules say whether a row is valid; None where it has none."""


@dataclass(frozen=True)
class CompareSpec:
    """What decides the table besides the numbers that it is made of."""

    title: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
