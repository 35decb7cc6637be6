"""Logits, head scores, rewards and policies that are no numbers end the row that they belong to, and no other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from components.errors import SamplingError
from components.objectives import config as objectives
from components.samplers import preset
from components.samplers.contract import Extras, Vocabulary
from components.samplers.engine import Session
from components.samplers.sampler import build_sampler
from components.samplers.unusable import KINDS, SENTENCES
from tests.decoding import likes_last, policy, rows_of, run
from tests.learning import MASK, batch, terms_of
from tests.learning import network as learner
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
        if self.forwards < 2:
            return prediction
        bad = (tokens[:, 0] == POISON)[:, None, None].repeat(1, tokens.shape[1], prediction.logits.shape[-1])
        bad[:, : self.position] = False
        bad[:, self.position + 1 :] = False
        bad[..., 1:] = False
        if (select := given.get("select")) is not None:
            bad = bad.flatten(0, 1)[select]
        return replace(prediction, logits=prediction.logits.masked_fill(bad, self.value))


def ended(network, rows, name, reward=likes_last, policy=policy):
    sampler = build_sampler(preset(name), Vocabulary(ORACLE.mask_id), Extras(policy, ORACLE.embedding))
    session = Session(network, sampler, ORACLE.length, 3 * sampler.width, reward=reward)
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


def ends_alone(name, sentence, network=ORACLE, reward=likes_last, policy=policy):
    """A row whose prompt is the poison ends with the sentence, and its mates as without it."""
    good = rows_of(ORACLE, 2, prompt=1)
    bad = replace(rows_of(ORACLE, 1, prompt=POISON)[0], id=77)
    expected, as_told = ended(ORACLE, good, name)
    found, told = ended(network, [good[0], bad, good[1]], name, reward, policy)
    for row in good:
        assert found[row.id] == expected[row.id]
        assert told[row.id] == as_told[row.id]
    assert isinstance(found[77], SamplingError)
    assert "row 77" in str(found[77])
    assert sentence in str(found[77])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["prism", "dsc"])
def test_a_row_with_a_head_that_says_no_number_ends_alone(name, value):
    """At position 4 only, from the third forward on; nobody is told of a token that was masked for it."""
    forwards = []

    def network(tokens, **given):
        prediction = ORACLE(tokens, **given)
        forwards.append(len(tokens))
        if len(forwards) < 3:
            return prediction
        bad = (tokens[:, 0] == POISON)[:, None] & (torch.arange(ORACLE.length) == 4)
        return replace(prediction, heads={"quality": prediction.heads["quality"].masked_fill(bad, value)})

    ends_alone(name, "quality head's score for the row 77 is NaN or infinite in call 3 at position 4", network)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("name", ["fk_steering", "particle_gibbs"])
def test_a_row_with_a_reward_that_is_no_number_ends_alone(name, value):
    def reward(tokens, rows):
        return likes_last(tokens, rows).masked_fill(tokens[:, 0] == POISON, value)

    ends_alone(name, "reward of the row 77 is NaN or infinite", reward=reward)


def test_a_row_for_which_the_policy_says_no_number_ends_alone():
    """At its second call; a policy sees no tokens, so the row is told apart by its lane."""
    calls = []

    def broken(confidence, masked, time):
        calls.append(len(masked))
        bad = torch.arange(len(masked)) == 1  # the lane of the row 77
        return policy(confidence, masked, time).masked_fill(bad[:, None] & (len(calls) > 1), math.nan)

    ends_alone("learned_policy", "policy's logits for the row 77 are NaN in call 2", policy=broken)


def test_there_is_a_sentence_for_every_kind():
    assert set(SENTENCES) == set(range(KINDS))


def test_guidance_keeps_impossible_what_either_half_calls_so():
    """Minus infinity in both halves: their difference is no number, and there is none to tell of."""

    def network(tokens, **given):
        prediction = ORACLE(tokens, **given)
        return replace(
            prediction, logits=prediction.logits.masked_fill(torch.tensor([True, False, False, True]), -math.inf)
        )

    samples = run(network_of(network), preset("cfg", steps=4), rows_of(ORACLE, 20, prompt=1)).values()
    assert all(0 not in sample.tokens for sample in samples)
    assert {token for sample in samples for token in sample.tokens[1:]} == {1, 2}


def network_of(function):
    """The oracle's sizes around another answer."""

    class Other:
        mask_id, length, device, embedding = ORACLE.mask_id, ORACLE.length, "cpu", ORACLE.embedding

        def __call__(self, tokens, **given):
            return function(tokens, **given)

    return Other()


@pytest.mark.parametrize("experts", [(), (0.5,)])
def test_rollouts_of_a_network_that_says_no_number_end_and_their_loss_is_no_number(experts):
    """So the step is left out and counted, as every other whose gradient is not finite. Tokens are drawn and the mask has
    the id 0, which such a row would be given for ever."""
    assert MASK == 0
    config = objectives.PolicyGrpoConfig(rollouts=2, expert_thresholds=experts, draw_temperature=1.0)
    model = learner(config)
    sound = terms_of(config, batch(rows=2), model)["policy"].loss_sum
    assert bool(torch.isfinite(sound))
    torch.nn.init.constant_(model.head.weight, math.nan)
    assert bool(torch.isnan(terms_of(config, batch(rows=2), model)["policy"].loss_sum))
