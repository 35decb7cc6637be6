"""Objectives with every option away from its default, against plain loops over what they drew, and laws of what they draw."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from components.diffusion.schedule import LogLinear
from components.objectives import config as c
from components.objectives import proseco
from components.objectives.base import Network
from components.objectives.dsl import ratios
from components.objectives.policy import policy_term, roll_out
from components.objectives.prism import fill
from components.objectives.smart import compose
from components.objectives.soft_mask import Softened
from tests.doubles import answer
from tests.learning import LENGTH, MASK, VOCAB, batch, network, setting, terms_of


class Table(Network):
    """Logits by the token at the position alone, row v of a table; keeps what it was shown."""

    def __init__(self, table=None):
        generator = torch.Generator().manual_seed(5)
        self.table = torch.randn(VOCAB, VOCAB, dtype=torch.float64, generator=generator) if table is None else table
        self.shown = []

    def __call__(self, tokens, *, select=None, judge=None, **given):
        self.shown.append(tokens)
        return answer(self.table[tokens], select, judge)

    def log_p(self, shown: int, token: int) -> float:
        row = [float(x) for v, x in enumerate(self.table[shown]) if v != MASK]
        return float(self.table[shown, token]) - math.log(sum(map(math.exp, row)))


BLANK = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)


def corrupted(config, given):
    return config.load()(config, setting()).corrupt(given)


# --- policies ----------------------------------------------------------------------------------------


def graded(tokens, clean):
    """A reward in which rollouts differ: the share of even tokens."""
    return (tokens % 2 == 0).double().mean(-1)


def transition(b, candidates, action, temperature):
    """Probability of revealing the set ``action``, by the definition."""
    s = [1 / (1 + torch.exp(-x / temperature)) for x in b]
    places = [i for i, there in enumerate(candidates) if there]
    drawn = nothing = torch.ones((), dtype=torch.float64)
    for i in places:
        drawn = drawn * (s[i] if action[i] else 1 - s[i])
        nothing = nothing * (1 - s[i])
    first = max(places, key=lambda i: float(b[i].detach()))
    return drawn + nothing if [i for i in places if action[i]] == [first] else drawn


def test_the_gradient_of_grpo_is_that_of_its_formula_where_rewards_differ():
    config = c.PolicyGrpoConfig(
        rollouts=3, expert_thresholds=(0.3, 0.9), speed=2.0, clip=0.05, temperature=0.7, draw_temperature=1.0
    )
    model = network(config).float()
    nn.init.normal_(model.policy.out.weight, std=0.3)
    given = batch(rows=6, prompt=2)
    rollouts = roll_out(model, given, config, setting(graded))
    steps, rows = rollouts.taken.shape

    def likelihoods():
        b = model.decide(*(x.flatten(0, 1) for x in (rollouts.confidence, rollouts.masked, rollouts.time)))
        b = b.view(steps, rows, LENGTH).double()
        for r in range(rows):
            for n in range(steps):
                if rollouts.taken[n, r]:
                    p = transition(b[n, r], rollouts.masked[n, r].tolist(), rollouts.action[n, r].tolist(), 0.7)
                    yield n, r, 3 / 5 * p + 1 / 5 if r // 6 >= 3 else p  # rollouts 3 and 4 of each row are the experts'

    old = {(n, r): float(p.detach()) for n, r, p in likelihoods()}
    assert all(math.exp(rollouts.old[at]) == pytest.approx(p, rel=1e-4) for at, p in old.items())
    number = [sum(at[1] == r for at in old) for r in range(rows)]
    size = LENGTH - 2
    worth = [float(rollouts.reward[r]) * ((size - number[r] + 1) / size) ** 2.0 for r in range(rows)]
    mean = [sum(worth[r % 6 :: 6]) / 5 for r in range(rows)]
    advantage = [worth[r] - mean[r] for r in range(rows)]
    assert rollouts.advantage.tolist() == pytest.approx(advantage, abs=1e-6)
    assert min(map(abs, advantage)) < 0.5 * max(map(abs, advantage)), "rewards differ"

    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    total, clipped = torch.zeros((), dtype=torch.float64), set()
    for n, r, p in likelihoods():
        ratio = p / old[n, r]
        inside = ratio.clamp(0.95, 1.05)
        clipped |= {(advantage[r] > 0, bool(ratio > 1))} if bool(inside != ratio) else set()
        total = total + min(ratio * advantage[r], inside * advantage[r], key=lambda x: float(x.detach())) / number[r]
    assert len(clipped) == 4, "both bounds, with gains and losses"
    parameters = list(model.policy.parameters())
    expected = torch.autograd.grad(-total, parameters)
    term = policy_term(model, rollouts, config)
    assert float(term.loss_sum.detach()) == pytest.approx(-float(total.detach()), rel=1e-4)
    found = torch.autograd.grad(term.loss_sum, parameters)
    assert sum(float(g.abs().sum()) for g in expected) > 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs.to(ours), rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rollouts_draw_their_tokens_at_the_temperature_asked_for(temperature):
    """A blank network: greedily all tokens are one, drawn they are all there are."""
    config, seen = c.PolicyGrpoConfig(rollouts=4, draw_temperature=temperature), []
    model = network(config).float()
    nn.init.zeros_(model.head.weight)
    roll_out(model, batch(rows=8), config, setting(lambda tokens, clean: seen.append(tokens) or graded(tokens, clean)))
    assert len(seen[0].unique()) == (1 if temperature == 0 else VOCAB - 1)


# --- whole rows by hand --------------------------------------------------------------------------------


def test_smarts_loss_is_the_sum_of_its_three_weights():
    config = c.SmartConfig(plain_share=0.3, masked_weight=0.5, wrong_weight=3.0, right_weight=0.2, random_share=0.2)
    given, model = batch(rows=32, prompt=1), Table()
    rows = corrupted(config, given)
    shown = compose(model, rows, config, setting())
    kinds, total = set(), 0.0
    for i in range(32):
        for j in range(1, LENGTH):
            if not rows.plain[i]:
                seen, clean = int(shown[i, j]), int(given.tokens[i, j])
                weight = 0.5 if seen == MASK else 0.2 if seen == clean else 3.0
                kinds.add(weight)
                total -= weight * model.log_p(seen, clean)
    assert kinds == {0.5, 0.2, 3.0}
    assert float(terms_of(config, given, model)["smart"].loss_sum) == pytest.approx(total, rel=1e-6)


def test_what_smart_draws_has_the_laws_of_its_options():
    """3,000 rows of 8: plain rows, first masks between the two shares, fills as drawn or greedy, random tokens."""
    config = c.SmartConfig(plain_share=0.3, first_mask=(0.25, 0.5), random_share=0.0, fill="sample")
    given = batch(rows=64)
    rows = [corrupted(config, dataclasses.replace(given, step=s)) for s in range(47)]
    plain, first = (torch.cat([getattr(r, name) for r in rows]) for name in ("plain", "first"))
    assert float(plain.double().mean()) == pytest.approx(0.3, abs=0.04)
    number = torch.bincount(first.sum(-1), minlength=9) / len(first)
    assert number[2:5].tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.04)  # 8 x U(0.25, 0.5), rounded
    words = {}
    for fill_by in ("sample", "argmax"):
        draft = compose(Table(BLANK), rows[0], dataclasses.replace(config, fill=fill_by), setting())
        words[fill_by] = draft[rows[0].first & ~rows[0].second].unique().tolist()
    assert words == {"sample": list(range(1, VOCAB)), "argmax": [1]}
    noisy = compose(Table(BLANK), rows[0], dataclasses.replace(config, random_share=1.0), setting())
    right = (noisy == given.tokens)[~rows[0].second].double().mean()
    assert float(right) == pytest.approx(1 / (VOCAB - 1), abs=0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cmlms_loss_shares_its_smoothing_over_all_tokens_but_the_mask(smoothing):
    config, given, model = c.CmlmConfig(label_smoothing=smoothing), batch(rows=8), Table()
    rows, total = corrupted(config, given), 0.0
    for i, j in rows.masked.nonzero().tolist():
        flat = sum(model.log_p(MASK, v) for v in range(1, VOCAB)) / (VOCAB - 1)
        total -= (1 - smoothing) * model.log_p(MASK, int(given.tokens[i, j])) + smoothing * flat
    assert float(terms_of(config, given, model)["masked"].loss_sum) == pytest.approx(total, rel=1e-6)


def test_prosecos_corrector_by_hand_where_errors_count_by_their_nats_and_right_ones_by_their_probability():
    given, model = batch(rows=16), Table()
    config = c.ProsecoConfig(error_weighted=True, corrector_weight=2.0)
    total, kinds = 0.0, set()
    terms = terms_of(config, given, model)
    time, draft = corrupted(config, given).time, model.shown[1]
    for i in range(16):
        for j in range(LENGTH):
            clean, log_p = int(given.tokens[i, j]), model.log_p(int(draft[i, j]), int(given.tokens[i, j]))
            wrong = int(draft[i, j]) != clean
            kinds.add(wrong)
            total += 2.0 * (-log_p if wrong else -math.exp(log_p)) / float(time[i])
    assert kinds == {True, False}
    assert float(terms["correct"].loss_sum) == pytest.approx(total, rel=1e-5)


def test_correcting_every_third_row_gives_the_same_sum_over_three_steps():
    given, config = batch(rows=6), c.ProsecoConfig(every=3)
    time, draft = torch.linspace(0.2, 1, 6), given.tokens.roll(1, 0)

    def correct(every, step):
        at, options = dataclasses.replace(given, step=step), dataclasses.replace(config, every=every)
        return float(proseco.correcting_term(Table(), at, time, draft, options, setting()).loss_sum)

    assert sum(correct(3, step) for step in range(3)) / 3 == pytest.approx(correct(1, 0), rel=1e-9)
    assert len({correct(3, step) for step in range(3)}) == 3


def test_prosecos_drafts_are_rolled_out_and_mixed_as_often_as_asked():
    """A table that turns each token into the next one: the draft is that many further."""
    following = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)
    for v in range(VOCAB):
        following[v, max(1, (v + 1) % VOCAB)] = 9.0
    given = batch(rows=8)
    for passes in (0, 1, 3):
        model = Table(following)
        terms_of(c.ProsecoConfig(rollout=passes), given, model)
        expected = model.shown[0]
        for _ in range(passes + 1):
            expected = following[expected].argmax(-1)
        assert len(model.shown) == 2 + passes
        assert torch.equal(model.shown[-1], expected)
    model = Table(following)
    terms_of(c.ProsecoConfig(random_share=0.4), batch(rows=64), model)
    changed = (model.shown[-1] != following[model.shown[0]].argmax(-1)).double().mean()
    assert float(changed) == pytest.approx(0.4 * (VOCAB - 2) / (VOCAB - 1), abs=0.08)
    for positions in ("all", "masked"):
        model = Table(following)
        terms_of(c.ProsecoConfig(draft_positions=positions), given, model)
        noisy, draft = model.shown
        own = noisy == MASK if positions == "masked" else torch.ones_like(noisy, dtype=torch.bool)
        assert torch.equal(draft, torch.where(own, following[noisy].argmax(-1), given.tokens))
    words = {}
    for draft in ("argmax", "sample"):
        model = Table(BLANK)
        terms_of(c.ProsecoConfig(draft_token=draft), given, model)
        words[draft] = len(model.shown[-1].unique())
    assert words == {"argmax": 1, "sample": VOCAB - 1}


# --- heads, noise, orders, mixtures ----------------------------------------------------------------------


def test_prisms_fills_are_of_the_masks_and_number_asked_for_and_each_version_draws_anew():
    given = batch(rows=32)
    config = c.PrismConfig(num_fills=2, select="confident", fill="sample")
    noised = corrupted(config, given)
    logits = Table().table[noised.tokens]
    logits[..., MASK] = -math.inf
    flat = logits[noised.masked]
    drawn = [fill(flat, noised, config, inner) for inner in (0, 1)]
    for tokens, chosen in drawn:
        assert torch.equal(chosen.sum(-1), noised.masked.sum(-1).clamp(max=2))
        assert torch.equal(tokens[~chosen], noised.tokens[~chosen])
    both = drawn[0][1] & drawn[1][1]
    assert not torch.equal(drawn[0][0][both], drawn[1][0][both])
    greedy = dataclasses.replace(config, fill="argmax", num_fills=1)
    sharp = torch.zeros(int(noised.masked.sum()), VOCAB).double()
    sharp[:, 3] = 1 + torch.arange(len(sharp)) % 5  # the position of a mask decides how sure its token is
    tokens, chosen = fill(sharp, noised, greedy, 0)
    sure = torch.full((32, LENGTH), -1.0).double().masked_scatter(noised.masked, sharp[:, 3])
    assert torch.equal(sure[chosen], sure.amax(-1)[chosen.any(-1)])
    assert bool((tokens[chosen] == 3).all())
    by_chance = dataclasses.replace(config, select="random", num_fills=1)
    first, second = (fill(sharp, noised, by_chance, inner)[1] for inner in (0, 1))
    assert not torch.equal(first, second)
    assert bool((sure[first] < sure.amax(-1)[first.any(-1)]).any())


def test_prisms_weights_multiply_its_own_terms():
    one, half = (terms_of(c.PrismConfig(mdm_weight=w), batch(rows=8), network(c.PrismConfig())) for w in (1.0, 0.25))
    assert float(half["mdm"].loss_sum) == pytest.approx(0.25 * float(one["mdm"].loss_sum), rel=1e-9)
    assert float(half["quality"].loss_sum) == pytest.approx(float(one["quality"].loss_sum), rel=1e-9)


def test_the_two_times_of_look_back_have_their_laws():
    """t ~ U[0, 0.8], t' ~ U[0.2, 1 - t]: 0.4 of the tokens are masked late, and (0.4 + 0.2 + 1) / 2 = 0.8 early; of a row
    at most 0.8 and at least 0.2. 6,400 rows; within 0.02."""
    rows = [corrupted(c.DscConfig(step=0.2), dataclasses.replace(batch(rows=64), step=s)) for s in range(100)]
    late, early = (torch.cat([getattr(r, n) for r in rows]).double() for n in ("masked", "early_masked"))
    assert float(late.mean()) == pytest.approx(0.4, abs=0.02)
    assert float(early.mean()) == pytest.approx(0.8, abs=0.02)
    assert bool((early >= late).all())


def test_dsls_ratios_are_lognormal_up_to_the_largest_and_a_share_of_rows_is_discrete():
    """6,400 rows: quartiles of log gamma within 0.04, what is cut off at gamma_max within 0.02."""
    config = c.DslConfig(noise_dim=8, log_mean=1.0, log_std=0.5, gamma_max=4.0, roar_share=0.3)
    rows = torch.cat([ratios(dataclasses.replace(batch(rows=64), step=s), config) for s in range(100)]).double()
    discrete = (rows == 0).any(-1)
    assert float(discrete.double().mean()) == pytest.approx(0.3, abs=0.02)
    assert bool(((rows[discrete] == 0) | (rows[discrete] == 4.0)).all())
    level = rows[~discrete]
    assert bool((level == level[:, :1]).all())
    beyond = 0.5 * math.erfc((math.log(4.0) - 1.0) / 0.5 / math.sqrt(2))
    assert float((level[:, 0] == 4.0).double().mean()) == pytest.approx(beyond, abs=0.02)
    quartiles = torch.quantile(level[:, 0].log(), torch.tensor([0.25, 0.5], dtype=torch.float64)).tolist()
    assert quartiles == pytest.approx([1.0 - 0.6745 * 0.5, 1.0], abs=0.04)


def test_mapet_predicts_the_ranks_that_are_neither_context_nor_too_late():
    """7 positions behind a prompt: floor(0.25 x 7) = 1 of context, 6 ranks, of which those up to 0.5 x 6 count."""
    config = c.MapetConfig(context=0.25, upper=0.5)
    rows = corrupted(config, batch(rows=64, prompt=1))
    assert bool((rows.rank.sort(-1).values == torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])).all())
    assert torch.equal(rows.predicted, (rows.rank >= 1) & (rows.rank <= 3))


@pytest.mark.parametrize(("beta", "top_k"), [(0.5, 2), (2.0, 4)])
def test_soft_masks_of_a_training_are_the_stated_mixture(beta, top_k):
    config = c.SoftMaskConfig(beta=beta, top_k=top_k)
    logits = Table().table[None, :3]
    tokens = torch.tensor([[MASK, 4, MASK]])
    where = torch.tensor([[True, False, False]])
    ids, weights = Softened(Table(), where[:, 0], config, setting()).mixture(tokens, where, logits)
    assert ids.shape == (1, 3, top_k + 1)
    p = {v: float(torch.softmax(logits[0, 0, 1:], -1)[v - 1]) for v in range(1, VOCAB)}
    entropy = -sum(x * math.log(x) for x in p.values()) / math.log(VOCAB)
    best = sorted(p, key=lambda v: -p[v])[:top_k]
    expected = {v: (1 - entropy) / (beta + 1) * p[v] / sum(p[u] for u in best) for v in best}
    expected[MASK] = (beta + entropy) / (beta + 1)
    found = dict(zip(ids[0, 0].tolist(), weights[0, 0].tolist(), strict=True))
    assert found == pytest.approx(expected)
    assert weights[0, 1:, 0].tolist() == [1.0, 1.0]


def test_the_share_of_soft_rows_is_the_one_asked_for():
    rows = [corrupted(c.SoftMaskConfig(share=0.3), dataclasses.replace(batch(rows=64), step=s)).soft for s in range(50)]
    assert float(torch.cat(rows).double().mean()) == pytest.approx(0.3, abs=0.03)


def test_the_loglinear_schedule_keeps_its_share_at_the_end():
    one = torch.ones(1, dtype=torch.float64)
    assert float(LogLinear(0.25).alpha(one)) == pytest.approx(0.25)
    assert float(LogLinear(0.25).alpha(one / 2)) == pytest.approx(0.625)
