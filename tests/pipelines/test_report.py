"""The report's pictures, from tables that a sampler really made."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from components.store.samples import read_shard
from pipelines.stages import report
from tests.service.test_tables import KEYS, made


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Three tables: two whose first rows were traced, and one without a trace."""
    root = tmp_path_factory.mktemp("report")
    folders = [made(root, key * 16, sizes=(6,), num_traced=number) for key, number in (("a", 4), ("b", 4), ("c", 0))]
    infos = {f"samples_{i:03d}": {"shards": ["seed-0-00000"]} for i in range(3)}
    inputs = {f"samples_{i:03d}": folder for i, folder in enumerate(folders)}
    return SimpleNamespace(inputs=inputs | {"tokenizer": root / "export" / KEYS["model"]}, infos=infos)


def row(sampler: str, calls: float, quality: float) -> dict[str, object]:
    return {"sampler": sampler, "calls": calls, "quality": quality, "metric": "valid"}


def test_there_is_one_picture_for_each_budget_of_its_best_sampler(context):
    drawn = report.trajectories([row("worse", 6.0, 0.2), row("better", 6.1, 0.3), row("untraced", 12.0, 0.9)], context)
    assert re.findall("<h3>(.*?)</h3>", drawn) == ["6.1 calls: better, valid 0.300"]
    drawn = report.trajectories([row("one", 6.0, 0.4), row("two", 8.0, 0.3), row("untraced", 8.1, 0.2)], context)
    assert re.findall("<h3>(.*?)</h3>", drawn) == ["6.0 calls: one, valid 0.400", "8.0 calls: two, valid 0.300"]


def test_the_picture_is_of_the_traced_row_that_was_corrected_most(context):
    rows = read_shard(context.inputs["samples_000"] / "shards" / "seed-0-00000.parquet").to_pylist()
    most = max(r["edits"] for r in rows[:4])
    shown = next(r for r in rows if r["edits"] == most)
    drawn = report.trajectories([row("one", 6.0, 0.4)], context)
    assert f"sample {shown['sample_index']}: {shown['calls']} calls, {most} corrections" in drawn
