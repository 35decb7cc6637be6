"""The report's pictures, from tables that a sampler really made."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from components.evaluation.headline import bars, headline
from components.evaluation.trajectory import Frame, without_padding
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


NO_RULES = SimpleNamespace(source=None)


def row(sampler: str, calls: float, quality: float) -> dict[str, object]:
    return {"sampler": sampler, "calls": calls, "quality": quality, "metric": "valid", "larger_is_better": True, "quality_low": quality, "quality_high": quality}


def test_there_is_one_picture_for_each_budget_of_its_best_sampler(context):
    drawn = report.trajectories([row("worse", 6.0, 0.2), row("better", 6.1, 0.3), row("untraced", 12.0, 0.9)], NO_RULES, context)
    assert re.findall("<h3>(.*?)</h3>", drawn) == ["6.1 calls: better, valid 0.300"]
    drawn = report.trajectories([row("one", 6.0, 0.4), row("two", 8.0, 0.3), row("untraced", 8.1, 0.2)], NO_RULES, context)
    assert re.findall("<h3>(.*?)</h3>", drawn) == ["6.0 calls: one, valid 0.400", "8.0 calls: two, valid 0.300"]


def test_the_picture_is_of_the_traced_row_that_was_corrected_most(context):
    rows = read_shard(context.inputs["samples_000"] / "shards" / "seed-0-00000.parquet").to_pylist()
    most = max(r["edits"] for r in rows[:4])
    shown = next(r for r in rows if r["edits"] == most)
    drawn = report.trajectories([row("one", 6.0, 0.4)], NO_RULES, context)
    assert f"sample {shown['sample_index']}: {shown['calls']} calls, {most} corrections" in drawn


def test_a_row_says_whether_it_is_valid_and_what_mended_it():
    """Rows of two cells that must differ; 9 is the mask, 0 padding."""
    tokenizer = SimpleNamespace(mask_id=9, decode=lambda ids: "".join(map(str, ids)), show=str)
    corpus = SimpleNamespace(obeys=lambda prompt, text: len(set(text)) == len(text))

    def said(*rows, num_prompt=0):
        none = frozenset()
        return report.verdict([Frame(i, row, none, none, none) for i, row in enumerate(rows)], corpus, tokenizer, num_prompt)

    assert said((9, 9), (1, 9), (1, 1)) == "not valid"
    assert said((9, 9), (1, 9), (1, 2)) == "valid since it was full, after call 2"
    assert said((9, 9), (1, 1), (1, 3)) == "full and not valid after call 1; call 2 mended it: position 2 from 1 to 3"
    assert said((9, 9), (1, 2), (1, 1), (2, 1)) == "full and not valid after call 2; call 3 mended it: position 1 from 1 to 2"
    assert said((9, 9), (1, 2), (1, 1)) == "not valid"
    assert said((1, 9), (1, 1), num_prompt=1) == "valid since it was full, after call 1"
    assert said((9, 9)) == "not valid"


def test_padding_is_folded_away():
    none = frozenset()
    found = without_padding([Frame(0, (9, 9, 9, 9), none, none, none), Frame(1, (5, 0, 6, 0), frozenset({0, 3}), none, none)], 0)
    assert [f.tokens for f in found] == [(9, 9, 9), (5, 0, 6)]
    assert found[1].revealed == {0}


def test_the_headline_is_the_surest_difference_at_equal_calls():
    def result(model, calls, quality, larger=True):
        return {
            "sampler": f"{model}@{calls}", "model": model, "calls": calls, "quality": quality, "quality_low": quality - 0.02,
            "quality_high": quality + 0.02, "is_share": True, "num_samples": 1000, "metric": "valid", "unique": 0.5, "larger_is_better": larger,
        }  # fmt: skip

    rows = [result("a", 6, 0.5), result("b", 6, 0.55), result("a", 12, 0.4), result("b", 12, 0.8), result("b", 30, 0.99)]
    assert str(headline(rows)) == (
        "b@12 (b) has valid 0.800 (0.780 to 0.820) at 12.0 calls, 50% of its samples different; a@12, the best of a, has valid 0.400 "
        "(0.380 to 0.420) at 12.0 calls, 50% of its samples different: 2.00 times (1.84 to 2.17)."
    )
    assert "no two models were sampled at equal calls" in str(headline([rows[0], rows[4]]))
    assert str(headline([result("a", 6, 0.5), result("b", 6, 0.51)])).endswith("no sure difference.")
    smaller = [{**result("a", 6, -2.0, larger=False), "is_share": False}, {**result("b", 6, -1.5, larger=False), "is_share": False}]
    assert "has valid 1.500 (1.480 to 1.520)" in str(headline(smaller)), "a metric is told as it was measured"
    lines = list(bars(rows))
    assert [line.count("█") for line in lines] == [20, 22, 16, 32, 40]
    assert lines[0].endswith("0.500")
