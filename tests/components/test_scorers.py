from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.data.config import TokenizerConfig
from components.data.tokenizer import build_tokenizer
from components.diffusion import noise
from components.errors import ConfigError, SamplingError
from components.evaluation.frontier import normal, summarise, wilson
from components.models.denoiser import Prediction
from components.scorers import SCORERS, ngram
from components.scorers.base import ScoredRow, ScorerSetting
from components.scorers.config import NelboConfig, NgramConfig
from components.scorers.nelbo import build as build_nelbo
from components.scorers.text import distinct, entropy
from components.shards.score import require_known_classes
from tests.oracle import Oracle


@dataclass(frozen=True)
class Words:
    """What counting grams asks of a tokenizer."""

    vocab_size: int
    pad_id: int


def test_entropy_and_distinct_by_hand():
    assert entropy([1, 1, 2, 2]) == pytest.approx(math.log(2))
    assert entropy([]) == 0
    assert distinct([1, 2, 1, 2], 2) == pytest.approx(2 / 3)
    assert distinct([1], 2) == 0


def test_the_judge_is_a_distribution_and_follows_its_formula(tmp_path):
    rows = np.array([[0, 1, 2, 0, 1], [0, 1, 1, 9, 9]])
    ngram.train(NgramConfig(order=2, discount=0.5), rows, Words(10, 9), tmp_path)
    found = ngram.Ngrams(tmp_path / ngram.FILE)
    # Unigrams: 0 x3, 1 x4, 2 x1 of 8; bigrams after 0: 1 x3; after 1: 2 x1, 1 x1.
    p0, p1 = (3 + 1) / 18, (4 + 1) / 18
    assert found.nll([0]) == pytest.approx(-math.log(p0))
    p1_after_0 = (3 - 0.5) / 3 + 0.5 * 1 / 3 * p1
    assert found.nll([0, 1]) == pytest.approx(-math.log(p0) - math.log(p1_after_0))
    for first in (0, 1, 5):
        total = sum(math.exp(-(found.nll([first, w]) - found.nll([first]))) for w in range(10))
        assert total == pytest.approx(1)


def test_a_judge_of_higher_order_still_sums_to_one(tmp_path):
    rng = np.random.default_rng(0)
    ngram.train(NgramConfig(order=4), rng.integers(0, 4, (50, 12)), Words(5, 4), tmp_path)
    found = ngram.Ngrams(tmp_path / ngram.FILE)
    for history in itertools.product(range(4), repeat=3):
        base = found.nll(list(history))
        assert sum(math.exp(-(found.nll([*history, w]) - base)) for w in range(5)) == pytest.approx(1)


def test_a_judge_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at most 3"):
        ngram.train(NgramConfig(order=5), np.zeros((1, 9), dtype=np.int64), Words(126000, 1), tmp_path)


def test_the_bound_of_an_oracle_is_above_the_entropy_and_close():
    """The bound of the exact conditionals is the entropy of the joint, up to t_min and sampling noise."""
    oracle = Oracle(num_tokens=3, length=3, seed=1)
    tokenizer = build_tokenizer(TokenizerConfig(), [], "abc")

    class Shifted:
        """The oracle with the tokenizer's ids: four special ones first."""

        def __call__(self, tokens, *, select=None, label=None, time=None):
            own = torch.where(tokens == tokenizer.mask_id, oracle.mask_id, tokens - 4)
            logits = oracle(own).logits[..., :3]
            padded = torch.full((*tokens.shape, 4), -700.0, dtype=torch.float64)
            return Prediction(torch.cat([padded, logits], -1))

    rng = np.random.default_rng(0)
    picks = rng.choice(len(oracle.joint), 2000, p=oracle.joint.numpy())
    rows = [ScoredRow(i, "", "", tuple((oracle.outcomes[p] + 4).tolist()), 0) for i, p in enumerate(picks)]
    columns = build_nelbo(NelboConfig(draws=8), ScorerSetting(tokenizer, None, Shifted()))(rows)
    exact = float(-(oracle.joint * oracle.joint.log()).sum()) / 3
    found, error = np.mean(columns["nelbo"]), np.std(columns["nelbo"]) / 2000**0.5
    assert abs(found - exact) < 5 * error + 0.01 * exact
    again = build_nelbo(NelboConfig(draws=8), ScorerSetting(tokenizer, None, Shifted()))(rows[5:6])
    assert again["nelbo"][0] == pytest.approx(columns["nelbo"][5])


def test_a_time_masks_its_own_share_of_a_row():
    """Each position of 64 rows and 4 draws, one by one: masked with probability t, and not 0.999 t. Times are drawn from
    all of (0, 1)."""
    tokenizer = build_tokenizer(TokenizerConfig(), [], "abc")
    seen = []

    class Blank:
        def __call__(self, tokens, *, label=None, time=None):
            seen.append((tokens == tokenizer.mask_id, time))
            return Prediction(torch.zeros(*tokens.shape, 7))

    rows = [ScoredRow(i, "", "", (4,) * 64, 0) for i in range(64)]
    build_nelbo(NelboConfig(draws=4, estimator="time"), ScorerSetting(tokenizer, None, Blank()))(rows)
    keys = noise.row_keys(0, torch.arange(64))
    assert len(seen) == 4
    for draw, (masked, time) in enumerate(seen):
        assert torch.equal(masked, noise.uniform(keys, draw, 0, 64, noise.Stream.SCORE) >= (1 - time)[:, None])
    assert float(torch.stack([time for _, time in seen]).min()) < 0.01


@pytest.mark.parametrize("estimator", ["time", "count"])
def test_a_bound_is_of_what_was_written_and_given_its_label(estimator):
    """A network to which a written token is worth one nat, and any other position a hundred."""
    tokenizer = build_tokenizer(TokenizerConfig(), [], "abc")
    worth = torch.tensor([100.0, 100.0, 1.0, 1.0, 100.0, 1.0, 100.0, 100.0])
    seen = []

    class Prices:
        def __call__(self, tokens, *, label=None, time=None):
            seen.append((tokens == tokenizer.mask_id, label))
            logits = torch.full((*tokens.shape, 7), -torch.inf)
            logits[..., 4], logits[..., 5] = -worth, torch.log(-torch.expm1(-worth))
            return Prediction(logits)

    rows = [ScoredRow(i, "", "", (4,) * 8, 2, (4, 6, 7), label) for i, label in enumerate([0.5, None])]
    found = build_nelbo(NelboConfig(draws=64, estimator=estimator), ScorerSetting(tokenizer, None, Prices()))(rows)
    masked = torch.stack([m for m, _ in seen])[:, :2].any(0).any(0)
    assert masked.tolist() == [False, False, True, True, False, True, False, False]
    for value, error in zip(found["nelbo"], found["nelbo_se"], strict=True):
        assert abs(value - 1) < (1e-5 if estimator == "count" else 4 * error)
    assert all(label[0] == 0.5 and label[1].isnan() for _, label in seen)
    build_nelbo(NelboConfig(draws=1), ScorerSetting(tokenizer, None, Prices()))(rows[1:])
    assert seen[-1][1] is None, "rows without labels are asked about as those of a network without any"


def test_classes_that_the_network_has_not_are_refused_and_of_one_without_any_left_alone():
    rows = [ScoredRow(0, "", "", (4,), 0, label=3.0), ScoredRow(1, "", "", (4,), 0)]
    require_known_classes(rows, {"num_classes": 4})
    require_known_classes(rows, {"num_classes": 0})
    require_known_classes([replace(rows[0], label=3.5)], {"value_range": [0.0, 1.0]})
    with pytest.raises(SamplingError, match="label = 3: the model knows 3 classes"):
        require_known_classes(rows, {"num_classes": 3})


def test_a_scorer_that_lacks_something_says_what():
    for name in ("nelbo", "judge", "validity"):
        with pytest.raises(SamplingError):
            SCORERS[name]().load()(SCORERS[name](), ScorerSetting(None))


def test_intervals():
    low, high = wilson(np.array([1.0] * 8 + [0.0] * 2))
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(np.zeros(10))[0] == pytest.approx(0, abs=1e-12)
    low, high = normal(np.array([1.0, 2.0, 3.0]))
    assert (low + high) / 2 == pytest.approx(2)
    assert high - low == pytest.approx(2 * 1.959964 / 3**0.5)


def test_unique_is_counted_within_each_seed():
    samples = pa.table(
        {
            "text": ["a", "b", "a", "a"], "seed": [0, 0, 1, 1], "calls": [1, 2, 3, 4], "call_positions": [1.0] * 4,
            "reward_calls": [0] * 4, "edits": [0] * 4, "tokens": [[1], [2], [1], [1]],
            "trace": [None] * 4,
        }
    )  # fmt: skip
    row = summarise(samples, pa.table({"valid": [1.0, 0.0, 1.0, 1.0]}), "valid", True)
    assert row["unique"] == pytest.approx(0.75)
    assert row["calls"] == 2.5
    assert row["seeds"] == [0, 1]
    assert row["quality_low"] < row["quality"] < row["quality_high"]


def test_an_interval_over_seeds_is_students_and_a_share_stays_a_share():
    from components.evaluation.frontier import over_seeds

    row = {
        "calls": 4.0,
        "call_positions": 4.0,
        "reward_calls": 0.0,
        "unique": 1.0,
        "entropy": 1.0,
        "edits": 0.0,
        "edited": 0.0,
        "quality_edited": None,
        "quality_unedited": 0.5,
        "traced_changes": 0,
        "traced_kept": 0,
        "num_samples": 10,
    }
    rows = [row | {"quality": q, "quality_low": q - 0.01, "quality_high": q + 0.01} for q in (0.5, 0.6, 0.7)]
    merged = over_seeds(rows)
    assert merged["quality"] == pytest.approx(0.6)
    assert merged["quality_high"] - merged["quality"] == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert (merged["num_seeds"], merged["num_samples"]) == (3, 30)
    high = [row | {"quality": q, "quality_low": q - 0.1, "quality_high": 1.0} for q in (0.9, 1.0)]
    assert over_seeds(high)["quality_high"] == 1.0
    assert over_seeds(rows[:1])["quality_low"] == pytest.approx(0.49), "one seed keeps the interval of its samples"
