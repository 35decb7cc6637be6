"""The comparison: the main job on several tasks and from several training seeds, and one table of them all."""

from __future__ import annotations

import dataclasses

from pipelines.config.schema import Comparison, RunConfig
from pipelines.graph.stage import Stage
from pipelines.stages.spec import CompareSpec, stage_of
from pipelines.workflows import main_job


def build(comparison: Comparison) -> dict[str, Stage]:
    """All stages by label, those that several seeds share once; the table is the last."""
    stages: dict[str, Stage] = {}
    by_key: dict[str, Stage] = {}
    measured: dict[str, Stage] = {}
    for task, run in comparison.tasks.items():
        for place, seed in enumerate(comparison.seeds):
            own = seeded(run, seed, () if place == 0 else comparison.one_seed)
            made = main_job.build(own, f"{task}/{seed}/")
            for stage in made.values():
                if stage.name == "report" or stage.key in by_key:
                    continue
                by_key[stage.key] = stages[stage.label] = stage
            if "evaluate" in made:
                measured[f"{task}.{seed}"] = by_key[made["evaluate"].key]
    config = CompareSpec(comparison.name, tuple(comparison.tasks), comparison.seeds)
    stages["compare"] = stage_of("compare", "compare", config, measured)
    return stages


def seeded(run: RunConfig, seed: int, left_out: tuple[str, ...]) -> RunConfig:
    """The run with other training seeds, without some trainings and what is sampled from them."""
    kept = {n: dataclasses.replace(t, seed=t.seed + seed) for n, t in run.train.items() if n not in left_out}
    samplers = {n: s for n, s in run.samplers.items() if s.model in kept}
    return dataclasses.replace(run, train=kept, samplers=samplers)
