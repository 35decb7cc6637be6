"""Logits that are no numbers end the row that they belong to, and no other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from components.errors import SamplingError
from components.samplers import preset
from components.samplers.engine import Session
from tests.decoding import likes_last, rows_of, sampler_of
from tests.oracle import Oracle

ORACLE = Oracle(num_tokens=3, length=6, seed=4)
POISON = 2
"""The network fails in rows whose prompt is this token."""


class Poisoned:
    """The oracle, with one logit at one position of some rows overwritten from its second forward on."""

    def __init__(self, value: float, position: int):
        self.value, self.position, self.forwards = value, position, 0

    def __call__(self, tokens, **given):
        prediction = ORACLE(tokens, **given)
        self.forwards += 1
        if self.forwards < 2 or given.get("select") is not None:
            return prediction
        bad = (tokens[:, 0] == POISON)[:, None, None].expand_as(prediction.logits).clone()
        bad[:, : self.position] = False
        bad[:, self.position + 1 :] = False
        bad[..., 1:] = False
        return replace(prediction, logits=prediction.logits.masked_fill(bad, self.value))


def ended(network, rows, name):
    sampler = sampler_of(ORACLE, preset(name))
    session = Session(network, sampler, ORACLE.length, 3 * sampler.width, reward=likes_last)
    told: dict[int, list] = {row.id: [] for row in rows}
    for row in rows:
        assert session.admit(row.id, row, told[row.id].extend)
    found = {}
    while not session.idle:
        found |= session.step()
    return found, told


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["threshold", "proseco", "token_edit", "particle_gibbs", "dsl_sde", "mask_predict"])
def test_a_row_with_a_logit_that_is_no_number_ends_alone_with_a_sentence(name, value):
    good = rows_of(ORACLE, 2, prompt=1)
    bad = replace(rows_of(ORACLE, 1, prompt=POISON)[0], id=77)
    expected, as_told = ended(ORACLE, good, name)
    for position in (3, 5):
        network = Poisoned(value, position)
        found, told = ended(network, [good[0], bad, good[1]], name)
        for row in good:
            assert found[row.id] == expected[row.id]
            assert told[row.id] == as_told[row.id]
        if not isinstance(found[77], SamplingError):
            assert position != 5, "nothing was asked about the position after the first call"
            continue
        assert "row 77" in str(found[77])
        assert f"position {position}," in str(found[77])
        call = int(str(found[77]).split("in call ")[1].split()[0])
        assert call >= 2
        assert all(edit.call < call for edit in told[77])


def test_minus_infinity_alone_is_a_token_that_can_not_be():
    rows = rows_of(ORACLE, 3, prompt=POISON)
    found, _ = ended(Poisoned(-math.inf, 3), rows, "threshold")
    assert all(not isinstance(sample, SamplingError) and sample.tokens[3] != 0 for sample in found.values())
