"""The main job: corpora -> tokenizer -> rows -> trainings -> exports -> samples -> scores -> report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.config import CorpusConfig, RowsConfig, TokenizerConfig
from components.models.config import ModelConfig
from components.objectives import OBJECTIVES, objective_name
from components.samplers import SamplerConfig
from components.scorers.config import JudgeConfig
from components.store.files import digest_file
from components.store.fingerprint import canonical
from components.training.config import TrainConfig
from pipelines.schema import GenerateConfig, RunConfig, budgets, model_of, taught_visible
from pipelines.stage import Stage


@dataclass(frozen=True)
class TokenizerPart:
    tokenizer: TokenizerConfig
    corpora: dict[str, CorpusConfig]
    pieces: int


@dataclass(frozen=True)
class RowsPart:
    corpus: CorpusConfig
    rows: RowsConfig
    fast: str


@dataclass(frozen=True)
class TrainPart:
    model: ModelConfig
    train: TrainConfig
    weights: dict[str, float]
    source: Any = None
    """Config of the corpus that rewards rollouts; only where the objective asks for one."""
    init_digest: str = ""
    """Of the weights in ``train.init_folder``."""


@dataclass(frozen=True)
class ExportPart:
    model: ModelConfig
    length: int
    trained_with: str
    visible_supervision: bool
    averaged: bool


@dataclass(frozen=True)
class GeneratePart:
    sampler: SamplerConfig
    generate: GenerateConfig
    length: int
    source: Any = None
    """Config of the corpus whose rules a reward reads; only where the sampler asks for one."""


@dataclass(frozen=True)
class ScorePart:
    scorers: dict[str, Any]
    source: Any


@dataclass(frozen=True)
class JudgePart:
    judge: JudgeConfig


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
class EvaluatePart:
    compared: dict[str, Compared]
    metric: str


@dataclass(frozen=True)
class ReportPart:
    title: str
    run: Any


def passes_per_step(train: TrainConfig) -> float:
    """Forward-backwards of one optimiser step, averaged over the training."""
    objective = train.objective
    if hasattr(objective, "passes"):
        return float(objective.passes)
    if objective.corrector_weight == 0:
        return 1.0
    corrected = (train.steps - objective.start_step) / train.steps
    return float(1.0 + corrected * (1.0 / objective.every + objective.rollout / 3))


def total_passes(run: RunConfig, name: str) -> int:
    train = run.train[name]
    own = round(train.steps * passes_per_step(train))
    return own + (total_passes(run, train.init_from) if train.init_from else 0)


def build(run: RunConfig, prefix: str = "") -> dict[str, Stage]:
    """All stages by label; the report is the last. ``prefix`` is put before the labels that people see."""
    stages: dict[str, Stage] = {}

    def add(name: str, label: str, config: Any, inputs: dict[str, Stage], version: int = 1) -> Stage:
        stages[label] = Stage(name, prefix + label, version, config, f"pipelines.stages.{name}:run", inputs)
        return stages[label]

    tokenizer = add("tokenizer", "tokenizer", TokenizerPart(run.tokenizer, run.corpora, run.rows.pieces), {})
    rows = {
        name: add(
            "tokenize", f"tokenize/{name}", RowsPart(corpus, run.rows, run.tokenizer.fast), {"tokenizer": tokenizer}
        )
        for name, corpus in run.corpora.items()
    }

    def train(name: str) -> Stage:
        label = f"train/{name}"
        if label in stages:
            return stages[label]
        config = run.train[name]
        inputs = {f"rows_{n}": s for n, s in rows.items()} | {"tokenizer": tokenizer}
        if config.init_from:
            inputs["init"] = train(config.init_from)
        weights = {f"rows_{n}": c.weight for n, c in run.corpora.items()}
        digest = digest_file(Path(config.init_folder) / "model.safetensors") if config.init_folder else ""
        rewarded = "reward" in OBJECTIVES[objective_name(config.objective)].needs
        source = next(iter(run.corpora.values())).source if rewarded else None
        return add("train", label, TrainPart(model_of(run, name).resolved(), config, weights, source, digest), inputs)

    for name in run.train:
        train(name)
    exports = {name: export(run, name, stages, add) for name in run.train}
    judge = None
    if "judge" in run.scorers:
        judge = add(
            "judge",
            "judge",
            JudgePart(run.scorers["judge"]),
            {"tokenizer": tokenizer} | {f"rows_{n}": s for n, s in rows.items()},
        )
    source = next(iter(run.corpora.values())).source
    compared: dict[str, Compared] = {}
    measured: dict[str, Stage] = {}
    for name, sampling in run.samplers.items():
        for sampler in budgets(sampling):
            label = f"{name}@{sampler.steps}"
            model = exports[sampling.model]
            made = {"model": model}
            if run.generate.prompts != "none":
                made |= {"rows": next(iter(rows.values()))}
            reward = getattr(sampler.search, "reward", "")
            if reward == "judge" and judge:
                made |= {"judge": judge}
            part = GeneratePart(sampler, run.generate, run.rows.length, source if reward else None)
            samples = add("generate", f"generate/{label}", part, made)
            needed = {"samples": samples, "model": model} | ({"judge": judge} if judge else {})
            scores = add("score", f"score/{label}", ScorePart(run.scorers, source), needed)
            role = f"{len(compared):03d}"
            compared[role] = Compared(
                name, sampling.model, sampler.steps, sampler.preset, total_passes(run, sampling.model)
            )
            measured |= {f"samples_{role}": samples, f"scores_{role}": scores}
    if compared:
        metric = run.metric or next(iter(run.scorers))
        evaluate = add("evaluate", "evaluate", EvaluatePart(compared, metric), measured)
        trained = {f"train_{n}": stages[f"train/{n}"] for n in run.train}
        shown = {"evaluate": evaluate, "tokenizer": tokenizer} | trained
        shown |= {k: v for k, v in measured.items() if k.startswith("samples_")}
        told = {k: v for k, v in canonical(run).items() if k != "runtime"}
        add("report", "report", ReportPart(run.name, told), shown)
    return stages


def export(run: RunConfig, name: str, stages: dict[str, Stage], add: Any) -> Stage:
    train = run.train[name]
    part = ExportPart(
        model_of(run, name).resolved(), run.rows.length, objective_name(train.objective), taught_visible(run, name),
        train.ema_decay > 0,
    )  # fmt: skip
    made: Stage = add(
        "export", f"export/{name}", part, {"train": stages[f"train/{name}"], "tokenizer": stages["tokenizer"]}
    )
    return made
