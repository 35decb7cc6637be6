"""What a nightly run is: a run that is made again every night, and the rule by which its model takes over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import date as Date
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from cluster.config import RuntimeConfig
from components.errors import Problem
from components.evaluation.rule import MIN_PAIRS
from components.options import Count, NonNegative, nearest, options
from components.scorers import SCORERS
from components.scorers.config import NelboConfig, ScorerOptions
from pipelines.config.schema import Name, RunConfig

HELD_OUT = "held_out"
"""The metric that is measured on rows of the corpora that nobody trained on."""


@options
class GateConfig:
    """By what a candidate and the champion are compared, and what decides."""

    sampler: str = ""
    """Of the run's samplers; at its first budget it samples both. Its model is the candidate."""
    better: str = HELD_OUT
    """Metric by which the candidate has to be better with confidence: a scorer of the run, or ``held_out``."""
    guarded: dict[str, NonNegative] = dataclasses.field(default_factory=dict)
    """Metrics by which it may not be worse with confidence, and by how much it may be."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided intervals."""
    held_out: Annotated[ScorerOptions, SCORERS.slot()] = NelboConfig()
    """What measures rows that nobody trained on."""
    held_out_split: Literal["validation", "test"] = "test"
    """Of all corpora; trainings look at ``validation``, too."""
    held_out_rows: Count = 512
    """At most so many of each corpus."""


@options
class NightlyConfig:
    """A run every night."""

    workflow: ClassVar[str] = "nightly"
    """How a YAML names this kind of run."""
    command: ClassVar[str] = "nightly"
    """Of ``proseco``, by which it is made."""

    name: Name = "nightly"
    """Of the nightly run, and of its model in MLflow's registry; the file's own where it is not given."""
    date: str = ""
    """The night, YYYY-MM-DD, today in UTC where it is not given; other values may hold ``${date}``, as in ``path: /data/until-${date}``."""
    run: RunConfig = RunConfig()
    """The sections of a run, as it is where there is no champion to start from."""
    warm: RunConfig = RunConfig()
    """The same with the section ``warm`` over it, as it is where there is one."""
    warm_start: bool = True
    """Start from the champion's weights, with its tokenizer. Otherwise every night begins anew."""
    gate: GateConfig = GateConfig()
    """Who takes over."""
    overlap: Literal["leave", "wait"] = "leave"
    """What happens while another night is at work: leave it to that one, or wait until it is done."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Where and how it is carried out."""

    def problems(self) -> Iterator[Problem]:
        """Broken rules between sections."""
        if not is_date(self.date):
            yield Problem("date", self.date, "a day as YYYY-MM-DD", "give --date, e.g. --date 2026-11-26")
        for run in (self.run, self.warm):
            if self.gate.sampler not in run.samplers:
                rule = f"one of the run's samplers: {', '.join(run.samplers)}"
                yield Problem("gate.sampler", self.gate.sampler, rule, nearest(self.gate.sampler, list(run.samplers)))
                return
        known = [HELD_OUT, *self.run.scorers]
        for path, metric in [("gate.better", self.gate.better), *(("gate.guarded", m) for m in self.gate.guarded)]:
            if metric not in known:
                yield Problem(path, metric, f"one of {', '.join(known)}", nearest(metric, known))
        if self.gate.better in self.gate.guarded:
            rule = "one that is not guarded as well: it has to be better anyhow"
            yield Problem("gate.better", self.gate.better, rule, "drop it from gate.guarded")
        if HELD_OUT in self.metrics() and not any(share(c, self.gate.held_out_split) for c in self.run.corpora.values()):
            rule = f"a share above 0, so that there is something to measure {HELD_OUT} on"
            yield Problem(f"corpora.*.{self.gate.held_out_split}_share", 0.0, rule, "set it to 0.05, e.g.")
        generate = self.run.generate
        if self.metrics() != {HELD_OUT} and generate.num_samples * len(generate.seeds) < MIN_PAIRS:
            rule = f"with its seeds at least {MIN_PAIRS} samples, or no interval means anything"
            yield Problem("generate.num_samples", generate.num_samples, rule, "raise it")

    def metrics(self) -> set[str]:
        """All that are measured."""
        return {self.gate.better, *self.gate.guarded}


def share(corpus: Any, split: str) -> float:
    """What share of a corpus is kept for a split."""
    return float({"validation": corpus.validation_share, "test": corpus.test_share}[split])


def is_date(text: str) -> bool:
    """Is it a day as YYYY-MM-DD?"""
    try:
        return Date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
