"""Options of samplers away from their defaults: what each does to a step, by hand, and laws where something is drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from components.models.denoiser import Prediction
from components.samplers import SamplerConfig, preset
from components.samplers.contract import Extras, Row, Vocabulary
from components.samplers.correctors.remdm import Remdm, RemdmLoop
from components.samplers.options.correctors import (
    DscConfig,
    FreeCorrectionConfig,
    PrismConfig,
    ProsecoCorrectorConfig,
    RemdmConfig,
    RemdmLoopConfig,
    TokenEditConfig,
)
from components.samplers.options.inputs import MixtureConfig, SoftMaskConfig
from components.samplers.options.orders import ConfidenceConfig, EntropyConfig, MarginConfig, RandomConfig
from components.samplers.options.schedules import (
    AncestralConfig,
    FirstHittingConfig,
    FixedCountConfig,
    LearnedConfig,
    ThresholdConfig,
)
from components.samplers.options.search import SelfRewardingConfig, SteeringConfig
from components.samplers.sampler import build_sampler
from tests.decoding import drive, rows_of, run, sampler_of
from tests.oracle import Oracle

GREEDY = replace(SamplerConfig().draw, temperature=0.0)
COUNTED = SamplerConfig(schedule=FixedCountConfig(), draw=GREEDY)
MASK = 4


class Says:
    """Logits [L, V] at rows with a mask, ``then`` at full ones; keeps what it was told."""

    def __init__(self, logits, then=None, quality=None):
        self.logits, self.quality = logits.double(), quality
        self.then = self.logits if then is None else then.double()
        self.tokens, self.times = [], []

    def __call__(self, tokens, *, select=None, time=None, heads=(), **given):
        self.tokens.append(tokens.clone())
        self.times.append(time.clone())
        full = (tokens != MASK).all(-1)[:, None, None]
        logits = torch.where(full, self.then, self.logits)
        scores = {} if self.quality is None else dict.fromkeys(heads, self.quality.expand(len(tokens), -1))
        return Prediction(logits if select is None else logits.flatten(0, 1)[select], scores)


def holes(length: int, count: int) -> list[Row]:
    return [Row(i, (MASK,) * length, (False,) * length) for i in range(count)]


def steps_of(network, config, rows, policy=None):
    return drive(network, build_sampler(config, Vocabulary(MASK), Extras(policy)), rows)


def sure_of(tokens: list[int], p: float = 1 - 1e-9) -> torch.Tensor:
    """Logits that give each position's token the probability p, of four."""
    logits = torch.full((len(tokens), MASK + 1), math.log((1 - p) / 3), dtype=torch.float64)
    return logits.scatter(-1, torch.tensor(tokens)[:, None], math.log(p))


# --- what the network is told ----------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [AncestralConfig(t_end=0.2), FixedCountConfig(), FirstHittingConfig(per_call=2)])
def test_the_time_is_that_of_the_row_before_the_tick(schedule):
    network = Says(torch.zeros(6, MASK + 1))
    config = SamplerConfig(steps=5, schedule=schedule)
    for number, (before, _, _) in enumerate(steps_of(network, config, holes(6, 20))):
        for row in before.active.nonzero()[:, 0].tolist():
            tick, time = int(before.tick[row]), float(network.times[number][row])
            if isinstance(schedule, AncestralConfig):
                assert time == pytest.approx(1 - (tick - 1) / 5 * 0.8)
            elif isinstance(schedule, FixedCountConfig):
                assert time == pytest.approx(1 - (tick - 1) / 5)
            else:
                assert time == pytest.approx(float(before["hit_time"][row][before.tokens[row] == MASK].max()))


def test_first_hitting_reveals_as_many_a_call_as_asked():
    oracle = Oracle(num_tokens=2, length=7, seed=0)
    for per_call, calls in ((1, 7), (2, 4), (3, 3)):
        config = SamplerConfig(steps=0, schedule=FirstHittingConfig(per_call=per_call))
        assert {s.calls for s in run(oracle, config, rows_of(oracle, 9)).values()} == {calls}


@pytest.mark.parametrize(
    "inputs", [MixtureConfig(beta=0.5, top_k=2, fade=2.0), SoftMaskConfig(beta=0.5, top_k=2, fade=2.0)]
)
def test_softness_fades_by_its_power_and_is_shared_by_the_best(inputs):
    """After k of 4 ticks the stored share times (1 - k / 4)^2; two tokens kept of four, as 2 : 1, which have all of it: H, or
    1 - H at masks, over beta + 1."""
    logits = torch.tensor([0.4, 0.2, 0.2, 0.2, 0.0]).log().expand(4, -1).clone()
    logits[:, 1:4] = torch.tensor([0.2, 0.19, 0.19]).log()
    p = torch.softmax(logits[0, :MASK].double(), -1)
    uncertainty = -float((p * p.log()).sum()) / math.log(MASK)
    share = (uncertainty if isinstance(inputs, MixtureConfig) else 1 - uncertainty) / 1.5
    seen = []

    class Soft(Says):
        def __call__(self, tokens, *, soft=None, **given):
            seen.append(soft)
            return super().__call__(tokens, **given)

    config = replace(COUNTED, steps=4, inputs=inputs, unmask=RandomConfig())
    for before, _, _ in steps_of(Soft(logits), config, holes(4, 6)):
        ids, weights = seen[-1]
        stored = before["soft_weights"]
        k = int(before.tick[0]) - 1
        assert torch.allclose(weights[..., 1:], stored * (1 - k / 4) ** 2)
        kept = stored.sum(-1) > 0
        assert torch.allclose(stored.sum(-1)[kept], torch.tensor(share), rtol=1e-4)
        assert torch.allclose(stored[..., 0][kept], 2 * stored[..., 1][kept], rtol=1e-4)
        assert bool((ids[..., 1:][kept] == torch.tensor([0, 1])).all())


# --- which position comes first ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", [ConfidenceConfig(), MarginConfig(), EntropyConfig()])
def test_each_order_goes_by_its_own_measure_where_they_differ(order):
    """50 sets of 5 positions and 4 tokens, ranked from probabilities by their definitions."""
    ranks = {ConfidenceConfig: 0, MarginConfig: 1, EntropyConfig: 2}
    differs = 0
    for seed in range(50):
        logits = torch.randn(5, MASK + 1, generator=torch.Generator().manual_seed(seed)).double()
        p = torch.softmax(logits[:, :MASK], -1).sort(dim=-1, descending=True).values
        measures = (p[:, 0], p[:, 0] - p[:, 1], (p * p.log()).sum(-1))
        wanted = [m.argsort(descending=True).tolist() for m in measures]
        differs += len({tuple(w) for w in wanted}) == 3
        found = [
            int(record.revealed[0].long().argmax())
            for _, _, record in steps_of(Says(logits), replace(COUNTED, steps=5, unmask=order), holes(5, 1))
        ]
        assert found == wanted[ranks[type(order)]]
    assert differs > 10


@pytest.mark.parametrize(("noise", "ticks"), [(2.0, 2), (4.0, 2), (2.0, 3)])
def test_the_noise_of_a_choice_is_gumbel_and_fades_linearly(noise, ticks):
    """Of two positions of confidence 0.9 and 0.4 the first comes first with odds (9 / 4)^(1 / (noise (1 - 1 / T))). 4,000
    rows, five standard deviations."""
    logits = torch.cat([sure_of([1], 0.9), sure_of([1], 0.4), sure_of([1] * (ticks - 2), 1e-9)])
    config = replace(COUNTED, steps=ticks, unmask=ConfidenceConfig(noise=noise))
    _, _, record = next(steps_of(Says(logits), config, holes(ticks, 4000)))
    odds = (9 / 4) ** (1 / (noise * (1 - 1 / ticks)))
    first, second = (float(record.revealed[:, i].double().sum()) for i in (0, 1))
    expected = odds / (1 + odds)
    assert abs(first / (first + second) - expected) < 5 * (0.25 / (first + second)) ** 0.5


@pytest.mark.parametrize(("temperature", "scale"), [(1.0, 1.0), (2.0, 1.0), (0.5, 0.5)])
def test_a_policy_reveals_with_its_tempered_and_scaled_probability(temperature, scale):
    """Logits of 1 at 8 positions of 2,000 rows, but for rows that drew none, which reveal one."""
    schedule = LearnedConfig(temperature=temperature, scale=scale)
    config = SamplerConfig(steps=0, schedule=schedule, unmask=ConfidenceConfig(), draw=GREEDY)
    steps = steps_of(Says(sure_of([1] * 8)), config, holes(8, 2000), lambda c, m, t: torch.ones_like(c))
    number = next(steps)[2].revealed.sum(-1).double()
    s = scale / (1 + math.exp(-1 / temperature))
    expected = 8 * s + (1 - s) ** 8
    assert abs(float(number.mean()) - expected) < 5 * (8 * s * (1 - s) / 2000) ** 0.5


# --- what is corrected ---------------------------------------------------------------------------------------


def test_the_remasking_probabilities_are_those_of_their_rules():
    times = [1.0, 0.8, 0.5, 0.3, 0.0]
    ticks = list(pairwise(times))
    most = [min(1.0, s / (1 - t)) if t < 1 else 1.0 for t, s in ticks]
    rules = {
        RemdmConfig(sigma="cap", eta=0.3): [min(0.3, m) for m in most],
        RemdmConfig(sigma="rescale", eta=0.3): [0.3 * m for m in most],
        RemdmConfig(sigma="conf", eta=0.3): [0.3 * m for m in most],
        RemdmConfig(sigma="forward_backward"): [min((t - s) / (1 - t), m) if t < 1 else 1.0 for (t, s), m in zip(ticks, most, strict=True)],
        RemdmConfig(sigma="dfm"): [
            min(10 * (t * (1 - t)) ** 0.25 * (t - s) / (1 - t), m) if t < 1 else 0.0
            for (t, s), m in zip(ticks, most, strict=True)
        ],
        RemdmConfig(sigma="rescale", eta=0.3, switch=0.5): [0.0, 0.0, 0.0, 0.3 * most[3]],
    }  # fmt: skip
    for config, expected in rules.items():
        assert Remdm(config).sigmas(torch.tensor(times, dtype=torch.float64)).tolist() == pytest.approx(expected), (
            config
        )
    loop = RemdmLoop(RemdmLoopConfig(eta=0.1, t_on=0.8, t_off=0.3, alpha_on=0.6))
    share, sigma = loop.pace(torch.tensor(times, dtype=torch.float64))
    assert share.tolist() == pytest.approx([1.0, 0.4, 0.4, 0.4, 0.0])
    assert sigma.tolist() == pytest.approx([0.0, 0.1, 0.1, 0.0])


@pytest.mark.parametrize(("positions", "shown"), [("masked", [2, 3, 1, 1]), ("all", [1, 1, 1, 1])])
def test_a_draft_carries_over_or_replaces_what_is_visible(positions, shown):
    network = Says(sure_of([1] * 4))
    corrector = ProsecoCorrectorConfig(draft="argmax", draft_positions=positions)
    row = Row(0, (2, 3, MASK, MASK), (False,) * 4)
    list(steps_of(network, replace(COUNTED, steps=2, corrector=corrector), [row]))
    assert network.tokens[1][0].tolist() == shown


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_gentle_pass_changes_as_many_as_asked(number):
    network = Says(sure_of([1] * 5), then=sure_of([2, 2, 2, 1, 1]))
    corrector = ProsecoCorrectorConfig(draft="argmax", inner="top_k", inner_top_k=number)
    steps = list(steps_of(network, replace(COUNTED, steps=5, corrector=corrector), holes(5, 3)))
    before, after = steps[0][1].draft, steps[1][1].draft
    assert (after != before).sum(-1).tolist() == [number] * 3


@pytest.mark.parametrize("inner", ["argmax", "sample"])
def test_a_pass_rewrites_by_the_best_token_or_by_a_drawn_one(inner):
    """Full rows are said to be 2 with 0.7: 3,000 positions."""
    network = Says(sure_of([1] * 3), then=sure_of([2] * 3, 0.7))
    corrector = ProsecoCorrectorConfig(draft="argmax", inner=inner)
    config = replace(COUNTED, steps=1, corrector=corrector, draw=SamplerConfig().draw)
    steps = list(steps_of(network, config, holes(3, 1000)))
    share = float((steps[1][1].draft == 2).double().mean())
    assert share == 1 if inner == "argmax" else abs(share - 0.7) < 0.045


def test_a_loop_begins_at_its_first_tick_and_rewrites_later_blocks_where_its_region_is_all():
    network = Says(sure_of([1] * 4), then=sure_of([2] * 4))
    corrector = ProsecoCorrectorConfig(start=3, draft="argmax")
    config = replace(COUNTED, steps=4, corrector=corrector, blocks=replace(COUNTED.blocks, length=2))
    passes = [int(before.tick[0]) for before, _, _ in steps_of(network, config, holes(4, 1)) if int(before.inner[0])]
    assert passes == [3, 4]
    early = replace(config, corrector=replace(corrector, start=1, passes=2))
    drafts = [a.draft[0].tolist() for b, a, _ in steps_of(network, early, holes(4, 1)) if int(b.inner[0]) == 1]
    assert drafts[0] == [2] * 4


@pytest.mark.parametrize("number", [1, 2])
def test_prism_masks_as_many_as_asked(number):
    network = Says(sure_of([1] * 8), quality=torch.linspace(0.1, 0.8, 8))
    config = replace(COUNTED, steps=4, corrector=PrismConfig(num_remasked=number, start=0.25))
    counts = [record.remasked.sum(-1).unique().tolist() for _, _, record in steps_of(network, config, holes(8, 20))]
    assert counts == [[0], [number], [number], [0]]


def test_prisms_binomial_count_has_its_rate():
    """At tick 2 of 4 with 10 of 40 visible: rates of min(eta, largest); 1,000 rows, five standard deviations."""
    for eta, rate in ((0.3, 0.3), (0.05, 0.05)):
        network = Says(sure_of([1] * 40), quality=torch.linspace(0.1, 0.8, 40))
        config = replace(COUNTED, steps=4, corrector=PrismConfig(eta=eta, start=0.25))
        steps = steps_of(network, config, holes(40, 1000))
        next(steps)
        number = next(steps)[2].remasked.sum(-1).double()
        assert abs(float(number.mean()) - 10 * rate) < 5 * (10 * rate * (1 - rate) / 1000) ** 0.5


@pytest.mark.parametrize(("threshold", "number", "masked"), [(0.6, 1, 1), (0.6, 3, 3), (0.75, 3, 0)])
def test_look_back_masks_the_worst_above_its_threshold_at_most_so_many(threshold, number, masked):
    """Quality of 0.3 everywhere is an error of 0.7."""
    network = Says(sure_of([1] * 8), quality=torch.full((8,), 0.3))
    corrector = DscConfig(threshold=threshold, num_remasked=number)
    config = replace(COUNTED, steps=9, schedule=FixedCountConfig(per_call=4), corrector=corrector)
    (_, _, first), (_, _, second), *_ = steps_of(network, config, holes(8, 5))
    assert first.remasked.sum() == 0
    assert second.remasked.sum(-1).tolist() == [masked] * 5


def test_swaps_are_shares_of_the_reveals_of_a_tick_phase_by_phase():
    """32 positions in 8 ticks, 4 a tick: half of them after a quarter of the ticks, a quarter after a half."""
    corrector = FreeCorrectionConfig(starts=(0.25, 0.5), shares=(0.5, 0.25), score="random")
    config = replace(COUNTED, steps=8, unmask=RandomConfig(), corrector=corrector)
    network = Says(sure_of([1] * 32))
    counts = [record.remasked.sum(-1).unique().tolist() for _, _, record in steps_of(network, config, holes(32, 5))]
    assert counts == [[0], [0], [2], [2], [1], [1], [1], [0]]


@pytest.mark.parametrize("action", ["replace", "remask"])
@pytest.mark.parametrize(("threshold", "edits"), [(0.65, 2), (0.75, 0)])
def test_token_editing_changes_above_its_threshold_by_its_action(action, threshold, edits):
    """Two wrong tokens, of which the network gives 0.7 to another one."""
    network = Says(sure_of([1] * 4, 0.7))
    corrector = TokenEditConfig(threshold=threshold, action=action, rounds=1)
    schedule = ThresholdConfig(1.0)
    config = SamplerConfig(steps=9, schedule=schedule, unmask=ConfidenceConfig(), draw=GREEDY, corrector=corrector)
    _, after, record = next(steps_of(network, config, [Row(0, (2, 3, 1, MASK), (False,) * 4)]))
    assert int((record.replaced if action == "replace" else record.remasked).sum()) == edits
    assert int((record.remasked if action == "replace" else record.replaced).sum()) == 0
    assert after.tokens[0, :2].tolist() == ([2, 3] if not edits else [1, 1] if action == "replace" else [MASK, MASK])


# --- which chains survive ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("exponent", "ramp"), [(1.0, False), (2.5, False), (2.0, True)])
def test_weights_are_lambda_times_the_change_of_belief(exponent, ramp):
    """Without resampling, over 4 ticks of one token each and a point at every tick."""
    oracle = Oracle(num_tokens=3, length=4, seed=2)
    search = SelfRewardingConfig(particles=2, every=1, ess=0.0, exponent=exponent, ramp=ramp)
    sampler = sampler_of(oracle, SamplerConfig(steps=4, schedule=FixedCountConfig(), search=search))
    weight = torch.zeros(20, dtype=torch.float64)
    for before, after, record in drive(oracle, sampler, rows_of(oracle, 10)):
        gain = (record.confidence.double().log() * record.revealed).nan_to_num(0).sum(-1)
        weight += exponent * (before.tick / 4 if ramp else 1) * gain
        assert torch.allclose(after["log_weight"], weight, atol=1e-5)


@pytest.mark.parametrize(("ess", "resampled"), [(0.5, False), (0.9, True), (1.0, True)])
def test_chains_are_drawn_anew_below_their_share_of_effective_ones(ess, resampled):
    """Weights 1, 2, 3, 4 of 10: 100 / 30 = 3.33 of 4 are effective, a share of 0.83."""
    oracle = Oracle(num_tokens=2, length=3, seed=0)
    search = SelfRewardingConfig(particles=4, ess=ess)
    sampler = sampler_of(oracle, preset("first_hitting", search={"name": "self_rewarding", "particles": 4, "ess": ess}))
    assert sampler.search == search
    canvas, ids = torch.full((50, 3), 2), torch.arange(50)
    state = sampler.start(canvas, canvas < 0, ids, torch.zeros_like(ids))
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0]).double().log().repeat(50)
    after = sampler.resample(state.having({"log_weight": weight}))
    assert torch.equal(after["log_weight"], torch.zeros_like(weight) if resampled else weight)


def test_an_estimate_is_the_soft_mean_of_its_guesses_and_sweeps_stop_at_their_reward():
    oracle = Oracle(num_tokens=2, length=3, seed=0)
    search = SteeringConfig(particles=2, reward="x", beta=0.5, guesses=3, guess="sample", sweeps=4, stop_above=0.75)
    sampler = sampler_of(oracle, SamplerConfig(search=search))
    canvas, ids = torch.full((1, 3), 2), torch.arange(1)
    state = sampler.start(canvas, canvas < 0, ids, ids)
    rewards = torch.tensor([[0.1, 0.4, 1.0], [0.0, 0.0, 0.3]], dtype=torch.float64)
    weighed = sampler.weigh(state, torch.zeros(2, dtype=torch.bool), rewards)
    expected = [0.5 * math.log(sum(math.exp(r / 0.5) for r in row) / 3) for row in rewards.tolist()]
    assert weighed["estimate"].tolist() == pytest.approx(expected)
    assert weighed["log_weight"].tolist() == pytest.approx([e / 0.5 for e in expected])
    for reward, goes_on in ((0.75, False), (0.7499, True)):
        ended = sampler.ended(state.having({"estimate": torch.full((2,), reward, dtype=torch.float64)}))
        assert bool(ended.active.any()) is goes_on
