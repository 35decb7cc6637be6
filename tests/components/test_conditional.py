"""Likelihoods of a text after another one, against the exact conditionals of a small joint."""

from __future__ import annotations

import math

import pytest
import torch

from components.scorers.conditional import Asked, bound, is_greedy, time_of
from tests.oracle import Oracle


@pytest.mark.parametrize(("start", "stop"), [(1, 3), (0, 3), (2, 4), (0, 4)])
def test_the_bound_of_an_oracle_is_the_likelihood_itself(start, stop):
    """Any order of exact conditionals multiplies to p(asked given the context), what follows summed out; a false alarm
    has a probability below 1e-6 each."""
    oracle = Oracle(num_tokens=3, length=4, seed=2)
    outcome = oracle.outcomes[int(oracle.joint.argmax())].tolist()

    def probability(number: int) -> float:
        """Of the first tokens of the outcome."""
        return float(oracle.joint[(oracle.outcomes[:, :number] == torch.tensor(outcome[:number])).all(-1)].sum())

    exact = -math.log(probability(stop) / probability(start))
    row = torch.tensor([*outcome[:stop], *[oracle.mask_id] * (4 - stop)])
    draws = bound(oracle, Asked(row, start, stop, oracle.mask_id), 4000)
    assert len(draws) == 4000
    assert abs(float(draws.mean()) - exact) < 5 * float(draws.std()) / 4000**0.5


def test_the_most_probable_row_in_greedy_order_is_greedy():
    oracle = Oracle(num_tokens=3, length=4, seed=2)
    found = [o.tolist() for o in oracle.outcomes if is_greedy(oracle, Asked(o, 0, 4, oracle.mask_id))]
    assert len(found) == 1, "there is one greedy row"


def test_time_is_the_share_of_masks_behind_the_context():
    row = torch.tensor([[1, 9, 2, 9, 9]])
    assert time_of(row, Asked(row[0], 1, 3, 9)).tolist() == [0.75]
