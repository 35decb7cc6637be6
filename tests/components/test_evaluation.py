"""What is said about edits, and the comparison of best with best, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from components.evaluation.best import Pair, best_of_budgets, best_pairs, difference, due_to_edits, in_words, ratio
from components.evaluation.frontier import over_seeds, summarise, what_edits_did
from components.evaluation.page import best_table, edits_table, results_table, table
from components.evaluation.trajectory import frames
from pipelines.cli import runs
from pipelines.stages.report import best_against_best

NO_EDITS = {
    "edits": 0.0,
    "edited": 0.0,
    "quality_edited": None,
    "quality_unedited": 0.5,
    "traced_changes": 0,
    "traced_kept": 0,
}


def row(sampler: str, model: str, calls: float, quality: float, **others: object) -> dict[str, object]:
    """A row of results, 100 samples."""
    return {
        "sampler": sampler, "model": model, "steps": 6, "calls": calls, "quality": quality, "metric": "valid",
        "quality_low": quality - 0.03, "quality_high": quality + 0.03, "is_share": True, "unique": 1.0,
        "entropy": 1.6, "num_samples": 100, "passes": 7, "larger_is_better": True,
    } | NO_EDITS | others  # fmt: skip


def event(position: int, old: int, new: int, reason: str) -> dict[str, object]:
    return {"call": 1, "tick": 1, "position": position, "old": old, "new": new, "confidence": 1.0, "reason": reason}


def samples() -> pa.Table:
    """Four rows; the second is traced: one position goes 5, 6, 5, the other from 4 over the mask 9 to 7."""
    trace = [
        event(0, 9, 5, "reveal"), event(1, 9, 4, "reveal"), event(0, 5, 6, "replace"), event(1, 4, 9, "remask"),
        event(0, 6, 5, "replace"), event(1, 9, 7, "reveal"),
    ]  # fmt: skip
    return pa.table(
        {
            "text": ["a", "b", "c", "d"], "seed": [0] * 4, "calls": [1] * 4, "call_positions": [1.0] * 4,
            "reward_calls": [0] * 4, "edits": [0, 3, 1, 0], "tokens": [[5, 4], [5, 7], [5, 4], [5, 4]],
            "trace": [None, trace, None, []],
        }
    )  # fmt: skip


def test_samples_with_edits_are_set_against_those_without():
    found = summarise(samples(), pa.table({"valid": [1.0, 0.0, 1.0, 1.0]}), "valid", True)
    assert (found["edits"], found["edited"]) == (1.0, 0.5)
    assert (found["quality_edited"], found["quality_unedited"]) == (0.5, 1.0)
    assert found["is_share"]


def test_a_change_that_is_taken_back_does_not_count_as_kept():
    found = what_edits_did(samples(), np.ones(4))
    assert (found["traced_changes"], found["traced_kept"]) == (2, 1)


def test_no_number_is_made_up_where_no_sample_was_edited():
    plain = samples().drop_columns(["edits"]).append_column("edits", pa.array([0] * 4))
    found = what_edits_did(plain, np.ones(4))
    assert (found["edited"], found["quality_edited"], found["quality_unedited"]) == (0.0, None, 1.0)


def test_a_mean_in_nats_is_no_share():
    scores = pa.table({"nats": [0.0, 1.0, 1.0, 0.0]})
    assert not summarise(samples(), scores, "nats", False)["is_share"]


def test_a_metric_of_0_and_1_of_which_less_is_better_has_the_interval_of_its_share():
    """One error in four: Wilson's interval of 0.25, negated."""
    found = summarise(samples(), pa.table({"wrong": [0.0, 1.0, 0.0, 0.0]}), "wrong", False)
    assert found["quality"] == -0.25
    assert (found["quality_low"], found["quality_high"]) == (pytest.approx(-0.6994, abs=1e-4), pytest.approx(-0.0456, abs=1e-4))
    none = summarise(samples(), pa.table({"wrong": [0.0] * 4}), "wrong", False)
    assert none["quality_low"] < -0.4
    assert none["quality_high"] == pytest.approx(0, abs=1e-12)


def test_seeds_are_pooled_by_their_numbers_of_edited_samples():
    rows = [
        row("s", "m", 6.0, 0.5, num_samples=10, call_positions=6.0, reward_calls=0.0, edits=0.5, edited=0.5,
            quality_edited=0.2, quality_unedited=0.8, traced_changes=2, traced_kept=1),
        row("s", "m", 6.0, 0.6, num_samples=10, call_positions=6.0, reward_calls=0.0, edits=0.1, edited=0.1,
            quality_edited=1.0, quality_unedited=0.6, traced_changes=3, traced_kept=3),
    ]  # fmt: skip
    merged = over_seeds(rows)
    assert (merged["edits"], merged["edited"]) == (pytest.approx(0.3), pytest.approx(0.3))
    assert merged["quality_edited"] == pytest.approx((5 * 0.2 + 1 * 1.0) / 6)
    assert merged["quality_unedited"] == pytest.approx((5 * 0.8 + 9 * 0.6) / 14)
    assert (merged["traced_changes"], merged["traced_kept"]) == (5, 4)
    plain = [r | NO_EDITS for r in rows]
    assert over_seeds(plain)["quality_edited"] is None


def test_the_best_of_each_model_meet_at_nearly_equal_calls():
    results = [
        row("plain", "mdlm", 12.0, 0.2),
        row("tuned", "mdlm", 11.9, 0.6),
        row("dear", "mdlm", 12.8, 0.9),  # 6% more calls
        row("weak", "proseco", 12.0, 0.3),
        row("strong", "proseco", 12.07, 0.7),
        row("alone", "proseco", 6.0, 0.3),
    ]
    (pair,) = best_pairs(results)
    assert (pair.row["sampler"], pair.reference["sampler"]) == ("strong", "tuned")
    assert pair.gain == pytest.approx(0.1)
    assert best_pairs(results[:3]) == []
    assert best_against_best(results[:3]) == [], "no section where there is nothing to compare"
    assert best_against_best(results)[0].title == "Best against best"


def test_a_picture_marks_what_each_call_did_whatever_the_reason():
    trace = [event(0, 9, 5, "reveal"), event(1, 9, 4, "fill"), event(2, 9, 7, "choose"), event(3, 6, 9, "remask")]
    start, end = frames([5, 4, 7, 9], trace)
    assert start.tokens == (9, 9, 9, 6)
    assert (end.revealed, end.replaced, end.remasked) == ({0, 1, 2}, set(), {3})


def test_a_budget_is_what_costs_nearly_the_same():
    rows = [
        row("b", "mdlm", 6.15, 0.3), row("a", "mdlm", 6.0, 0.2), row("c", "mdlm", 6.2, 0.1), row("d", "mdlm", 12.0, 0.9)
    ]  # fmt: skip
    assert [r["sampler"] for r in best_of_budgets(rows)] == ["b", "c", "d"], "6.2 is 3.3% above 6"


def test_the_interval_of_a_ratio_is_that_of_katz():
    found = ratio(Pair(row("b", "proseco", 12.0, 0.6), row("a", "mdlm", 12.0, 0.3)))
    # variance of the logarithm: 0.4 / 60 + 0.7 / 30 = 0.03; exp(1.959964 * 0.173205) = 1.40421
    assert found == pytest.approx((2.0, 2 / 1.40421, 2 * 1.40421), rel=1e-5)


def test_what_has_no_ratio_gets_a_difference():
    none = Pair(row("b", "proseco", 12.0, 0.6), row("a", "mdlm", 12.0, 0.0))
    assert ratio(none) is None
    nats = Pair(row("b", "proseco", 12.0, -3.0, is_share=False), row("a", "mdlm", 12.0, -4.0, is_share=False))
    assert ratio(nats) is None
    wide = Pair(nats.row, nats.reference | {"quality_low": -4.04, "quality_high": -3.96})
    assert difference(wide) == pytest.approx((1.0, 0.95, 1.05))  # the hypotenuse of 0.03 and 0.04
    assert "+1.000 (+0.950 to +1.050)" in best_table([wide])


def test_edits_bring_at_most_what_lies_in_edited_samples():
    edited = {"edits": 0.3, "edited": 0.2, "quality_edited": 0.5, "quality_unedited": 0.625}
    few = Pair(row("b", "proseco", 12.0, 0.6, **edited), row("a", "mdlm", 12.0, 0.3))
    assert due_to_edits(few.row) == pytest.approx(0.1)
    said = in_words(few)
    assert "2.00 times (1.42 to 2.81)" in said
    assert "0.30 edits a sample, in 20% of its samples" in said
    assert "alone make up 0.500, so edits brought at most 0.100" in said
    assert "at least 67% of the gain of 0.300 has nothing to do with mending" in said
    near = Pair(few.row, row("a", "mdlm", 12.0, 0.55))
    assert "may account for all of the gain of 0.050" in in_words(near)
    assert "no gain to explain" in in_words(Pair(few.row, row("a", "mdlm", 12.0, 0.7)))
    assert "no part in this" in in_words(Pair(row("b", "proseco", 12.0, 0.6), row("a", "mdlm", 12.0, 0.3)))


def test_tables_show_edits():
    edited = row("b", "proseco", 12.0, 0.6, edits=0.31, edited=0.25, quality_edited=0.4, quality_unedited=0.7)
    plain = row("a<b", "mdlm", 12.0, 0.3)
    found = edits_table([plain, edited | {"traced_changes": 8, "traced_kept": 7}])
    assert "<td>0.31</td><td>25.0%</td><td>0.400</td><td>0.700</td><td>7 of 8</td>" in found
    assert "a&lt;b" not in found, "only samplers that edit are listed"
    assert edits_table([plain]) == ""
    assert "<td>a&lt;b</td>" in results_table([plain])
    assert table(["x"], [["1"], ["2"]], {1}).endswith("<tr><td>1</td></tr><tr class=best><td>2</td></tr></table></div>")
    console = Console(width=200, record=True)
    console.print(runs.results_table([edited]))
    head, line = console.export_text().splitlines()[:2]
    assert head.split()[-1] == "edits"
    assert line.split()[-1] == "0.31"
