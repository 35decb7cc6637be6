"""Stage graphs, one file a workflow. A run's YAML names one by ``workflow:``; this dict names them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.config.load import Run
from pipelines.config.nightly import NightlyConfig
from pipelines.config.schema import Comparison, RunConfig
from pipelines.graph.stage import Stage
from pipelines.workflows import compare, main_job, nightly

WORKFLOWS: dict[str, Callable[[Any], dict[str, Stage]]] = {
    RunConfig.workflow: main_job.build,
    Comparison.workflow: compare.build,
    NightlyConfig.workflow: nightly.build,
}
"""All stages of a run by label; the last is what it is for."""


def build(run: Run) -> dict[str, Stage]:
    """All stages of a run by label; the last is what it is for."""
    return WORKFLOWS[run.workflow](run)
