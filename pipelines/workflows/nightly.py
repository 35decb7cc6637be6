"""One night: the main job, going on from the champion where there is one, and the comparison of the two.

Both models sample from the same noise and prompts by the same sampler, and are scored on the same rows that nobody
trained on, so the gate sees differences row by row.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.evaluation.rule import Rule
from components.scorers.config import ScorerOptions, reads_model
from components.store.content import SHOWN, digest
from components.store.files import at
from components.store.fingerprint import canonical, fingerprint
from components.store.history import History, read_history
from pipelines.config.nightly import HELD_OUT, GateConfig, NightlyConfig
from pipelines.config.schema import budgets
from pipelines.graph.stage import Given, Stage
from pipelines.stages import spec
from pipelines.workflows import main_job
from pipelines.workflows.main_job import Graph, Start


def build(nightly: NightlyConfig) -> dict[str, Stage]:
    """All stages of the night by label; where there is a champion the gate is the last."""
    history = read_history(at(nightly.runtime.root), nightly.name)
    champion = champion_of(history)
    start = start_of(champion) if champion is not None and nightly.warm_start else None
    run = nightly.run if start is None else nightly.warm
    graph = Graph(run, "", start, main_job.build(run, start=start))
    if champion is not None:
        add_gate(graph, nightly.gate, champion)
    return graph.stages


def champion_of(history: History) -> Given | None:
    """The export that is the champion.

    Raises:
        ModelError: its folder is gone.
        CorruptArtifact: it was changed since.
    """
    if not history.champion:
        return None
    from pipelines.workflows.one_stage import given_model  # reads weights, so it needs torch

    return given_model(history.export(history.champion))


def start_of(champion: Given) -> Start:
    vocabulary = digest(champion.place / "tokenizer.json")[:SHOWN]
    return Start(champion, Given("the champion's tokenizer", vocabulary, champion.place))


def candidate_of(nightly: NightlyConfig, stages: Mapping[str, Stage]) -> Stage:
    """The export that this night is about."""
    return stages[f"export/{nightly.run.samplers[nightly.gate.sampler].model}"]


def data_of(nightly: NightlyConfig) -> str:
    """What decides a night besides its champion: what the corpora hold, and what the run says.

    Raises:
        DataError: a corpus cannot be read.
    """
    contents = {name: canonical(corpus.source.content()) for name, corpus in nightly.run.corpora.items()}
    said = [
        {k: v for k, v in canonical(run).items() if k not in ("name", "runtime")} for run in (nightly.run, nightly.warm)
    ]
    return fingerprint([contents, *said, canonical(nightly.gate), nightly.warm_start])


def add_gate(graph: Graph, gate: GateConfig, champion: Given) -> None:
    """What both models are measured by, and what comes of it."""
    margins = {gate.better: None, **gate.guarded}
    rules: dict[str, tuple[Rule, ...]] = {}
    inputs: dict[str, Stage] = {}
    if own := [m for m in margins if m != HELD_OUT]:
        rules["samples"] = tuple(rule(m, graph.run.scorers[m], margins[m]) for m in own)
        inputs |= samples_of_both(graph, gate.sampler, champion)
    if HELD_OUT in margins:
        rules["held_out"] = (rule(HELD_OUT, gate.held_out, margins[HELD_OUT]),)
        inputs |= held_out_of_both(graph, gate, champion)
    graph.add("gate", "gate", spec.GateSpec(rules, gate.confidence, graph.run.generate.prompts != "none"), inputs)


def rule(metric: str, scorer: ScorerOptions, margin: float | None) -> Rule:
    return Rule(metric, scorer.column, scorer.larger_is_better, margin)


def samples_of_both(graph: Graph, name: str, champion: Given) -> dict[str, Stage]:
    """Scores of the samples of both."""
    sampling = graph.run.samplers[name]
    sampler = budgets(sampling)[0]
    label = f"{name}@{sampler.steps}"
    made = main_job.add_samples(graph, f"champion/{label}", "champion", sampling, sampler, champion)
    return {"samples_champion": made["scores_champion"], "samples_candidate": graph.stages[f"score/{label}"]}


def held_out_of_both(graph: Graph, gate: GateConfig, champion: Given) -> dict[str, Stage]:
    """Scores by both of rows that neither was trained on tonight."""
    run, model = graph.run, graph.run.samplers[gate.sampler].model
    held = graph.add(
        "held_out",
        "held_out",
        spec.HeldOutSpec(gate.held_out_split, gate.held_out_rows),
        {**graph.rows(), "tokenizer": graph.tokenizer},
    )
    scorers = {HELD_OUT: gate.held_out}
    source = graph.source() if gate.held_out.reads_rules else None
    config = spec.ScoreSpec(
        scorers, source, run.runtime.dtype_of(run.train[model].precision) if reads_model(scorers) else "float32"
    )
    both: dict[str, Stage | Given] = {"champion": champion, "candidate": graph.stages[f"export/{model}"]}
    return {
        f"held_out_{who}": graph.add("score", f"score/held_out/{who}", config, {"samples": held, "model": one})
        for who, one in both.items()
    }
