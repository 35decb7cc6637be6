"""The main job: corpora -> tokenizer -> rows -> trainings -> exports -> samples -> scores -> report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.samplers import SamplerConfig
from components.scorers.config import reads_model
from components.store.fingerprint import canonical
from pipelines.config.schema import RunConfig, SamplingConfig, budgets, model_of, taught_visible, total_passes
from pipelines.graph.stage import Given, Stage
from pipelines.stages import spec


@dataclass(frozen=True)
class Start:
    """A model that a run goes on from: with its tokenizer, its first trainings starting from its weights."""

    model: Given
    tokenizer: Given
    """The same folder, named by the vocabulary alone, so that rows are made anew only where that changed."""


@dataclass
class Graph:
    """Stages that are there already, by label."""

    run: RunConfig
    prefix: str = ""
    """Put before the labels that people see."""
    start: Start | None = None
    stages: dict[str, Stage] = field(default_factory=dict)

    def add(self, name: str, label: str, config: Any, inputs: Mapping[str, Stage | Given]) -> Stage:
        self.stages[label] = spec.stage_of(name, self.prefix + label, config, inputs)
        return self.stages[label]

    def rows(self) -> dict[str, Stage]:
        """Tokenized corpora by the role that they play for other stages."""
        return {f"rows_{name}": self.stages[f"tokenize/{name}"] for name in self.run.corpora}

    @property
    def tokenizer(self) -> Stage | Given:
        return self.start.tokenizer if self.start else self.stages["tokenizer"]

    def source(self) -> Any:
        """The first corpus, whose rules are those of the run."""
        return next(iter(self.run.corpora.values())).source


def build(run: RunConfig, prefix: str = "", start: Start | None = None) -> dict[str, Stage]:
    """All stages by label; the report is the last.

    Args:
        start: model that the run goes on from.
    """
    graph = Graph(run, prefix, start)
    add_rows(graph)
    for name in run.train:
        add_training(graph, name)
    for name in run.train:
        add_export(graph, name)
    for name, scorer in run.scorers.items():
        if scorer.trains:
            graph.add("fit", f"fit/{name}", spec.FitSpec(scorer), {"tokenizer": graph.tokenizer, **graph.rows()})
    compared: dict[str, spec.Compared] = {}
    measured: dict[str, Stage] = {}
    for name, sampling in run.samplers.items():
        for sampler in budgets(sampling):
            role = f"{len(compared):03d}"
            passes = total_passes(run, sampling.model)
            compared[role] = spec.Compared(name, sampling.model, sampler.steps, sampler.preset, passes)
            measured |= add_samples(graph, f"{name}@{sampler.steps}", role, sampling, sampler)
    if compared:
        add_report(graph, compared, measured)
    return graph.stages


def add_rows(graph: Graph) -> None:
    """The tokenizer that all corpora share, and each corpus in rows."""
    run = graph.run
    contents = {name: content for name, c in run.corpora.items() if (content := c.source.content()) is not None}
    file = run.tokenizer.content()
    learned = contents if file is None else {}
    words = spec.TokenizerSpec(run.tokenizer, run.corpora, run.rows.pieces, learned, file)
    if graph.start is None:
        graph.add("tokenizer", "tokenizer", words, {})
    for name, corpus in run.corpora.items():
        config = spec.TokenizeSpec(corpus, run.rows, run.tokenizer.fast, contents.get(name))
        graph.add("tokenize", f"tokenize/{name}", config, {"tokenizer": graph.tokenizer})


def add_training(graph: Graph, name: str) -> Stage:
    """A training, and before it the one that it starts from."""
    label = f"train/{name}"
    if label in graph.stages:
        return graph.stages[label]
    run, config = graph.run, graph.run.train[name]
    inputs: dict[str, Stage | Given] = {**graph.rows(), "tokenizer": graph.tokenizer}
    if config.init_from:
        inputs["init"] = add_training(graph, config.init_from)
    elif graph.start is not None and not config.init_folder:
        inputs["init"] = graph.start.model
    weights = {f"rows_{n}": c.weight for n, c in run.corpora.items()}
    source = graph.source() if config.objective.rewarded else None
    model = model_of(run, name).resolved()
    return graph.add("train", label, spec.TrainSpec(model, config, weights, source, config.content()), inputs)


def add_export(graph: Graph, name: str) -> None:
    run, train = graph.run, graph.run.train[name]
    config = spec.ExportSpec(
        model=model_of(run, name).resolved(),
        length=run.rows.length,
        trained_with=train.objective.name,
        paper=train.objective.paper,
        visible_supervision=taught_visible(run, name),
        averaged=train.ema_decay > 0,
        trained_precision=train.precision,
    )
    inputs: dict[str, Stage | Given] = {"train": graph.stages[f"train/{name}"], "tokenizer": graph.tokenizer}
    graph.add("export", f"export/{name}", config, inputs)


def add_samples(
    graph: Graph,
    label: str,
    role: str,
    sampling: SamplingConfig,
    sampler: SamplerConfig,
    other: Given | None = None,
) -> dict[str, Stage]:
    """Samples and scores of one sampler at one budget, by the roles that they play for the evaluation.

    Args:
        other: model in place of the run's own.
    """
    run, model = graph.run, other or graph.stages[f"export/{sampling.model}"]
    reward = sampler.search.reward_name
    inputs: dict[str, Stage | Given] = {"model": model}
    if run.generate.prompts != "none":
        inputs["rows"] = next(iter(graph.rows().values()))
    if reward and run.scorers.get(reward) and run.scorers[reward].trains:
        inputs[f"fit_{reward}"] = graph.stages[f"fit/{reward}"]
    dtype = run.runtime.dtype_of(run.train[sampling.model].precision)
    config = spec.GenerateSpec(sampler, run.generate, run.rows.length, graph.source() if reward else None, dtype=dtype)
    samples = graph.add("generate", f"generate/{label}", config, inputs)
    trained = {f"fit_{n}": graph.stages[f"fit/{n}"] for n, scorer in run.scorers.items() if scorer.trains}
    needed: dict[str, Stage | Given] = {"samples": samples, "model": model, **trained}
    scored = spec.ScoreSpec(run.scorers, graph.source(), dtype if reads_model(run.scorers) else "float32")
    scores = graph.add("score", f"score/{label}", scored, needed)
    return {f"samples_{role}": samples, f"scores_{role}": scores}


def add_report(graph: Graph, compared: Mapping[str, spec.Compared], measured: Mapping[str, Stage]) -> None:
    """One table of all samplers, and the page."""
    run = graph.run
    scorer = run.scorers[run.metric or next(iter(run.scorers))]
    evaluate = graph.add("evaluate", "evaluate", spec.EvaluateSpec(compared, scorer), measured)
    trained = {f"train_{n}": graph.stages[f"train/{n}"] for n in run.train}
    shown = {"evaluate": evaluate, "tokenizer": graph.tokenizer, **trained, **measured, **graph.rows()}
    described = {k: v for k, v in canonical(run).items() if k != "runtime"}
    told = {name: trained_as(run, name) for name in run.train}
    source = graph.source() if graph.source().has_rules else None
    graph.add("report", "report", spec.ReportSpec(run.name, described, told, source), shown)


def trained_as(run: RunConfig, name: str) -> spec.Trained:
    """What the report tells of a training."""
    train = run.train[name]
    before = total_passes(run, train.init_from) if train.init_from else 0
    return spec.Trained(train.objective.name, train.smallest_time(), before, train.objective.passes(train.steps))
