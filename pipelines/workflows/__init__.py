"""Stage graphs, one file a workflow."""

from __future__ import annotations

from pipelines.schema import Comparison, RunConfig
from pipelines.stage import Stage


def build(run: RunConfig | Comparison) -> dict[str, Stage]:
    """All stages of a run by label; the last is what it is for."""
    from pipelines.workflows import compare, main_job

    return compare.build(run) if isinstance(run, Comparison) else main_job.build(run)
