"""The gate's rule: which way is better, what a margin allows, what counts as one piece of evidence, and what wins nothing."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from components.evaluation.gate import compare, interval, verdict
from components.evaluation.rule import MIN_PAIRS, Rule

BETTER = Rule("m", "m", True)


def table(values, prompts=None) -> pa.Table:
    rows = [str(n) for n in range(len(values))]
    return pa.table({"row_id": rows, "prompt_id": [str(p) for p in (prompts or rows)], "m": np.asarray(values, dtype=float)})


def noisy(mean: float, number: int = 100, seed: int = 0) -> np.ndarray:
    return mean + np.random.default_rng(seed).normal(size=number)


def held(rule: Rule, champion, candidate, confidence: float = 0.95, by_prompt: bool = False):
    return compare(rule, table(champion), table(candidate), confidence, by_prompt)


def test_a_candidate_has_to_be_better_and_not_only_to_seem_so():
    champion = noisy(0.0)
    assert held(BETTER, champion, champion + noisy(1.0, seed=1)).holds
    assert not held(BETTER, champion, champion + noisy(0.05, seed=1)).holds
    assert not held(BETTER, champion, champion).holds, "what can not be told apart is not better"
    assert not held(BETTER, champion, champion - noisy(1.0, seed=1)).holds


def test_less_is_better_where_the_metric_says_so():
    smaller = Rule("m", "m", False)
    champion = noisy(0.0)
    found = held(smaller, champion, champion - noisy(1.0, seed=1))
    assert found.holds
    assert found.difference > 0
    assert found.candidate < found.champion
    assert not held(smaller, champion, champion + noisy(1.0, seed=1)).holds


def test_a_margin_allows_so_much_and_no_more():
    champion = np.zeros(100)
    for margin, holds in ((0.11, True), (0.1, True), (0.09, False)):
        assert held(Rule("m", "m", True, margin), champion, champion - 0.1).holds is holds
    wide = held(Rule("m", "m", True, 0.1), champion, noisy(0.0, 100) * 2)
    assert wide.low < -0.1
    assert not wide.holds, "not to know is not to be not worse"


def test_pairs_are_compared_and_not_heaps():
    """Rows differ much more from each other than the two models do."""
    champion = noisy(0.0) * 100
    found = held(BETTER, champion, champion + 0.1 + 0.01 * noisy(0.0, seed=1))
    assert found.holds
    assert found.difference == pytest.approx(0.1, abs=0.01)
    shuffled = table(champion + 0.1).take(np.random.default_rng(2).permutation(100))
    assert compare(BETTER, table(champion), shuffled, 0.95, False).difference == pytest.approx(0.1), "joined by their ids"


def test_rows_of_one_prompt_are_one_piece_of_evidence():
    """Forty prompts of fifty equal rows each know as much as forty rows."""
    effects = noisy(0.2, 40, seed=3)
    prompts = [p for p in range(40) for _ in range(50)]
    rows = np.repeat(effects, 50)
    champion, candidate = table(np.zeros(2000), prompts), table(rows, prompts)
    apart = compare(BETTER, champion, candidate, 0.95, False)
    together = compare(BETTER, champion, candidate, 0.95, True)
    assert (apart.pairs, together.pairs) == (2000, 40)
    assert together.difference == pytest.approx(apart.difference)
    assert together.high - together.low == pytest.approx(math.sqrt(50) * (apart.high - apart.low), rel=0.02)
    assert (apart.holds, together.holds) == (True, False)


def test_the_interval_covers_as_often_as_it_says():
    for confidence in (0.8, 0.95):
        inside = 0
        for seed in range(2000):
            _, low, high = interval(noisy(0.3, 50, seed), confidence)
            inside += low <= 0.3 <= high
        assert inside / 2000 == pytest.approx(confidence, abs=0.02)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("margin", [None, 1e9])
def test_what_is_no_number_wins_nothing(bad, margin):
    candidate = noisy(5.0)
    candidate[7] = bad
    assert not held(Rule("m", "m", True, margin), np.zeros(100), candidate).holds


def test_a_row_that_neither_could_be_scored_on_is_left_out():
    champion, candidate = np.zeros(100), np.ones(100)
    champion[3] = candidate[3] = math.nan
    found = held(BETTER, champion, candidate)
    assert (found.holds, found.pairs, found.champion) == (True, 99, 0.0)


def test_too_few_pairs_win_nothing():
    enough = np.ones(MIN_PAIRS)
    assert held(BETTER, enough * 0, enough).holds
    assert not held(BETTER, enough[1:] * 0, enough[1:]).holds
    none = compare(BETTER, table([]), table([]), 0.95, False)
    assert (none.holds, none.pairs) == (False, 0)


def test_one_rule_that_does_not_hold_decides_and_is_named():
    good = held(BETTER, np.zeros(100), np.ones(100))
    bad = held(Rule("other", "m", True, 0.1), np.ones(100), np.zeros(100))
    assert verdict([good])[0]
    wins, why = verdict([good, bad])
    assert not wins
    assert "other" in why
    assert "m:" not in why
