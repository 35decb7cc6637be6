"""The exact samplers and searches, against the law that they must have under a denoiser that is never wrong.

Chi-square tests are at a false-alarm probability of 1e-6; all draws are seeded.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.samplers import SamplerConfig, preset
from components.samplers.config import BlocksConfig, GuardConfig, GuidanceConfig
from components.samplers.contract import NO_EXTRAS
from components.samplers.correctors.remdm import Remdm, RemdmLoop
from components.samplers.engine import Session
from components.samplers.options.correctors import FreeCorrectionConfig, NoCorrectorConfig, RemdmConfig, RemdmLoopConfig
from components.samplers.options.inputs import MixtureConfig
from components.samplers.options.orders import ConfidenceConfig, EntropyConfig
from components.samplers.options.schedules import (
    AncestralConfig,
    EntropyBoundConfig,
    FirstHittingConfig,
    FixedCountConfig,
    ThresholdConfig,
)
from components.samplers.options.search import BestOfConfig, SelfRewardingConfig, SteeringConfig
from components.samplers.schedules.ancestral import Ancestral
from tests.decoding import distance, drive, law, likes_last, rows_of, run, sampler_of, tokens_of
from tests.oracle import Oracle, chi_square

pytestmark = pytest.mark.law

EXACT = {
    "first hitting": SamplerConfig(schedule=FirstHittingConfig(), steps=0),
    "one at a time, random order": SamplerConfig(steps=3, schedule=FixedCountConfig()),
    "threshold of 1, by confidence": SamplerConfig(steps=0, schedule=ThresholdConfig(1.0), unmask=ConfidenceConfig()),
    "entropy bound of 0": SamplerConfig(steps=0, schedule=EntropyBoundConfig(0.0), unmask=EntropyConfig()),
    "blocks of 1": SamplerConfig(steps=3, schedule=FixedCountConfig(), blocks=BlocksConfig(length=1)),
    "remdm cap": SamplerConfig(steps=150, corrector=RemdmConfig(eta=0.02)),
    "remdm rescale": SamplerConfig(steps=150, corrector=RemdmConfig(sigma="rescale", eta=0.02)),
    "forward-backward": SamplerConfig(steps=150, corrector=RemdmConfig(sigma="forward_backward")),
    "guidance of nothing by nothing": SamplerConfig(
        steps=0, schedule=FirstHittingConfig(), guidance=GuidanceConfig(gamma=1.0)
    ),
}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_exact_samplers_have_the_joint_law(name, device):
    """20,000 rows, 8,000 for the remasking ones. An order by confidence of the DRAWN token is biased for more than one
    reveal a call and exact for one only where the order is decided before the draw; see the next test."""
    oracle = Oracle(num_tokens=3, length=3, seed=1, device=device)
    number = 8000 if EXACT[name].steps == 150 else 20000
    tokens = tokens_of(run(oracle, EXACT[name], rows_of(oracle, number), lanes=8000))
    counts = torch.bincount(oracle.index(tokens), minlength=len(oracle.joint))
    statistic, limit = chi_square(counts, oracle.joint * len(tokens))
    if name == "threshold of 1, by confidence":
        assert statistic > limit, "choosing a position by its draw keeps probable draws: a known bias"
    else:
        assert statistic < limit


def test_revealing_several_at_once_is_not_exact(device):
    """The tests above can fail: three positions in one call lose the joint."""
    oracle = Oracle(num_tokens=3, length=3, seed=1, device=device)
    for config in (
        SamplerConfig(steps=1, schedule=FixedCountConfig()),
        SamplerConfig(steps=0, schedule=FirstHittingConfig(per_call=3)),
        SamplerConfig(steps=0, schedule=EntropyBoundConfig(9.0), unmask=EntropyConfig()),
    ):
        tokens = tokens_of(run(oracle, config, rows_of(oracle, 20000), lanes=4096))
        counts = torch.bincount(oracle.index(tokens), minlength=len(oracle.joint))
        statistic, limit = chi_square(counts, oracle.joint * len(tokens))
        assert statistic > limit


def masked_share(oracle: Oracle, config: SamplerConfig, rows: int) -> torch.Tensor:
    """Share of masks after each tick 0..T, over rows that each move at a pace of their own."""
    sampler = sampler_of(oracle, config)
    steps = config.steps
    share = torch.full((rows, steps + 2), -1.0, dtype=torch.float64)
    share[:, 0] = 1
    tick = torch.arange(steps + 2)
    for before, after, _ in drive(oracle, sampler, rows_of(oracle, rows)):
        now = (after.tokens == oracle.mask_id).double().mean(-1)
        reached = (tick >= before.tick[:, None]) & before.active[:, None]
        share = torch.where(reached, now[:, None], share)
        early = (tick < before.tick[:, None]) & (share < 0)
        share = torch.where(early, 1.0, share)
    return share[:, : steps + 1].mean(0)


@pytest.mark.parametrize(
    "corrector",
    [
        NoCorrectorConfig(),
        RemdmConfig(eta=0.1),
        RemdmConfig(sigma="rescale", eta=0.3),
        RemdmConfig(sigma="forward_backward"),
        RemdmConfig(sigma="dfm"),
        RemdmConfig(sigma="rescale", eta=0.5, switch=0.5),
    ],
    ids=str,
)
def test_remasking_keeps_the_marginals(corrector):
    """P(masked after tick k) = t_k within 5 standard deviations, at every tick, 3,000 rows of 5."""
    oracle = Oracle(num_tokens=2, length=5, seed=0)
    config = SamplerConfig(steps=12, corrector=corrector)
    share = masked_share(oracle, config, 3000)
    expected = 1 - torch.arange(13, dtype=torch.float64) / 12
    deviation = (expected * (1 - expected) / 15000).sqrt()
    assert bool(((share - expected).abs() < 5 * deviation + 1e-4).all()), share - expected


def test_remasking_by_confidence_does_not_keep_them():
    """The published form: sigma depends on the tokens and is 0 on masks. It ends all the same."""
    oracle = Oracle(num_tokens=2, length=5, seed=0)
    share = masked_share(oracle, SamplerConfig(steps=12, corrector=RemdmConfig(sigma="conf", eta=1.0)), 3000)
    expected = 1 - torch.arange(13, dtype=torch.float64) / 12
    assert float((share - expected).abs().max()) > 0.03


def test_the_loop_holds_its_share_of_masks():
    """In the loop's middle the share of masks is 1 - alpha_on; 5 standard deviations."""
    oracle = Oracle(num_tokens=2, length=5, seed=0)
    loop = RemdmLoopConfig(eta=0.1, t_on=0.6, t_off=0.2, alpha_on=0.7)
    share = masked_share(oracle, SamplerConfig(steps=40, corrector=loop), 3000)
    middle = share[20:31]
    assert float((middle - 0.3).abs().max()) < 5 * (0.21 / 15000) ** 0.5
    assert float(share[40]) < 1e-3


def test_sigma_of_zero_is_plain_ancestral_sampling_bit_for_bit(device):
    oracle = Oracle(num_tokens=3, length=6, seed=2, device=device)
    plain = run(oracle, SamplerConfig(steps=9), rows_of(oracle, 60))
    for corrector in (RemdmConfig(eta=0.0), RemdmConfig(sigma="rescale", eta=0.0), RemdmConfig(switch=0.0)):
        assert run(oracle, SamplerConfig(steps=9, corrector=corrector), rows_of(oracle, 60)) == plain


def test_sigma_never_exceeds_what_the_schedule_can_make_up_for():
    times = 1 - torch.arange(51, dtype=torch.float64) / 50
    for sigma in ("cap", "rescale", "forward_backward", "dfm"):
        corrector = Remdm(RemdmConfig(sigma=sigma, eta=1.0))
        share, used = corrector.pace(times)
        assert bool((used <= (share[1:] / (1 - share[:-1]).clamp(min=1e-300)).clamp(max=1) + 1e-12).all())
    for corrector in (Remdm(RemdmConfig(sigma="dfm")), RemdmLoop(RemdmLoopConfig())):
        _, hazard = Ancestral(AncestralConfig(), corrector, NO_EXTRAS).table(50, torch.device("cpu"))
        assert bool((hazard.diff() >= -1e-12).all())


def test_first_hitting_times_are_those_of_the_continuous_process():
    """The number still masked at t is Binomial(L, t): mean and variance at t = 0.3, L = 64."""
    rows, length = 4000, 64
    sampler = sampler_of(Oracle(2, 2), SamplerConfig(steps=0, schedule=FirstHittingConfig()))
    canvas = torch.full((rows, length), 2)
    state = sampler.start(
        canvas, torch.zeros_like(canvas, dtype=torch.bool), torch.arange(rows), torch.full((rows,), 3)
    )
    number = (state["hit_time"] < 0.3).double().sum(-1)
    assert abs(float(number.mean()) - 19.2) < 5 * (13.44 / rows) ** 0.5
    assert abs(float(number.var()) - 13.44) < 5 * 13.44 * (2 / rows) ** 0.5


def test_first_hitting_calls_are_as_many_as_masks(device):
    oracle = Oracle(num_tokens=2, length=7, seed=0, device=device)
    samples = run(oracle, SamplerConfig(steps=0, schedule=FirstHittingConfig()), rows_of(oracle, 20, prompt=1))
    assert {s.calls for s in samples.values()} == {6}


# --- searches --------------------------------------------------------------------------------------

ONE_BY_ONE = {"steps": 0, "schedule": FirstHittingConfig()}


def test_self_rewarding_smc_reaches_p_squared_and_each_pick_has_its_own_law(device):
    """N = 16, temperature 1, lambda 1. Frequencies of 4,000 groups have a total variation of about 0.02 from
    their law by noise alone; p and p squared are 0.2 apart."""
    oracle = Oracle(num_tokens=2, length=3, seed=1, device=device)
    squared = oracle.joint**2 / (oracle.joint**2).sum()
    assert distance(squared, oracle.joint) > 0.15
    found = {}
    for pick in ("weight", "first", "best"):
        search = SelfRewardingConfig(particles=16, every=1, pick=pick, resampling="multinomial")
        samples = run(oracle, SamplerConfig(search=search, **ONE_BY_ONE), rows_of(oracle, 4000), lanes=16000)
        found[pick] = law(oracle, tokens_of(samples))
    assert distance(found["weight"], squared) < 0.03
    assert distance(found["best"], squared) > 0.1, "the largest of all totals is an optimiser"
    assert float(found["best"].max()) > float(found["weight"].max())


def test_without_resampling_particle_zero_is_the_solo_run_bit_for_bit(device):
    oracle = Oracle(num_tokens=3, length=5, seed=2, device=device)
    solo = run(oracle, SamplerConfig(**ONE_BY_ONE), rows_of(oracle, 30))
    search = SelfRewardingConfig(particles=3, every=2, ess=0.0, pick="first")
    group = run(oracle, SamplerConfig(search=search, **ONE_BY_ONE), rows_of(oracle, 30))
    assert {i: s.tokens for i, s in group.items()} == {i: s.tokens for i, s in solo.items()}
    assert all(s.calls == 3 * solo[i].calls for i, s in group.items())


@pytest.mark.parametrize("name", ["mdlm", "first_hitting"])
def test_an_exponent_of_zero_leaves_the_law_alone(name, device):
    """lambda = 0: equal weights never trigger resampling, and a pick by weight is uniform."""
    oracle = Oracle(num_tokens=2, length=3, seed=1, device=device)
    base = preset(name)
    search = SelfRewardingConfig(particles=3, every=1, exponent=0.0)
    steps = 200 if name != "first_hitting" else 0
    samples = run(oracle, replace(base, search=search, steps=steps), rows_of(oracle, 8000), lanes=6000)
    counts = torch.bincount(oracle.index(tokens_of(samples)), minlength=8)
    statistic, limit = chi_square(counts, oracle.joint * 8000)
    assert statistic < limit


def tilted(oracle: Oracle, beta: float) -> torch.Tensor:
    weight = oracle.joint * torch.exp(likes_last(oracle.outcomes, []) / beta)
    return weight / weight.sum()


def chains(oracle: Oracle, number: int, **options) -> torch.Tensor:
    search = SteeringConfig(particles=2, every=1, reward="x", beta=0.7, **options)
    samples = run(oracle, SamplerConfig(search=search, **ONE_BY_ONE), rows_of(oracle, number), lanes=2 * number)
    return law(oracle, tokens_of(samples))


def test_particle_gibbs_leaves_the_tilted_law_invariant_and_its_best_variant_does_not(device):
    """k = 2, 12,000 chains of 16 sweeps, whose noise is about 0.01 in total variation; 2,000 of the best. One sweep of SMC with
    two particles is biased; taking the best trajectory as reference is an optimiser and ends far away."""
    oracle = Oracle(num_tokens=2, length=3, seed=5, device=device)
    target = tilted(oracle, 0.7)
    single = distance(chains(oracle, 12000), target)
    gibbs = distance(chains(oracle, 12000, sweeps=16), target)
    best = distance(chains(oracle, 2000, sweeps=16, reference="best"), target)
    assert gibbs < 0.02
    assert single > 0.03
    assert best > 0.1


def test_a_drawn_estimate_of_the_reward_leaves_the_same_law(device):
    oracle = Oracle(num_tokens=2, length=3, seed=5, device=device)
    found = chains(oracle, 8000, sweeps=12, guess="sample", guesses=2)
    assert distance(found, tilted(oracle, 0.7)) < 0.025


def test_a_reward_of_zero_leaves_the_base_law(device):
    oracle = Oracle(num_tokens=2, length=3, seed=1, device=device)
    search = SteeringConfig(particles=3, sweeps=2, every=1, reward="x")
    samples = run(
        oracle, SamplerConfig(search=search, **ONE_BY_ONE), rows_of(oracle, 8000), lanes=9000,
        reward=lambda tokens, rows: torch.zeros(len(tokens)),
    )  # fmt: skip
    counts = torch.bincount(oracle.index(tokens_of(samples)), minlength=8)
    statistic, limit = chi_square(counts, oracle.joint * 8000)
    assert statistic < limit


def test_log_weights_telescope_to_the_reward():
    """Without resampling each chain ends with r(x_0) / beta, whatever the estimates were."""
    oracle = Oracle(num_tokens=3, length=5, seed=2)
    search = SteeringConfig(particles=3, every=2, reward="x", beta=0.3, ess=0.0)
    for base in (
        {"steps": 0, "schedule": FirstHittingConfig()},
        {"steps": 7},
        {"steps": 9, "corrector": RemdmConfig(eta=0.3)},
    ):
        sampler = sampler_of(oracle, SamplerConfig(search=search, **base))
        session = Session(oracle, sampler, oracle.length, 60, reward=likes_last)
        for row in rows_of(oracle, 20):
            assert session.admit(row.id, row)
        while not session.idle:
            session.step()
        expected = likes_last(session.state.tokens, []) / 0.3
        assert torch.allclose(session.state["log_weight"], expected, atol=1e-9)


def test_the_reference_costs_no_calls(device):
    """k T + (m - 1)(k - 1) T calls for T = L one-token calls."""
    oracle = Oracle(num_tokens=2, length=6, seed=0, device=device)
    for k, m in ((2, 3), (4, 2), (3, 1)):
        search = SteeringConfig(particles=k, sweeps=m, every=2, reward="x")
        samples = run(oracle, SamplerConfig(search=search, **ONE_BY_ONE), rows_of(oracle, 5))
        assert {s.calls for s in samples.values()} == {k * 6 + (m - 1) * (k - 1) * 6}
        assert all(s.reward_calls > 0 for s in samples.values())


def test_sweeps_stop_once_a_reference_is_good_enough(device):
    oracle = Oracle(num_tokens=2, length=4, seed=0, device=device)
    search = SteeringConfig(particles=2, sweeps=9, every=2, reward="x", beta=0.05, stop_above=1.0)
    samples = run(oracle, SamplerConfig(search=search, **ONE_BY_ONE), rows_of(oracle, 60))
    calls = {s.calls for s in samples.values()}
    assert min(calls) == 8
    assert max(calls) < 9 * 8
    assert all(s.tokens[-1] == 1 for s in samples.values() if s.calls < 8 + 8 * 4)


def test_resampling_moves_every_field_of_a_chain_and_leaves_its_slot():
    """Every lineage field is tagged with its row; after resampling the tags are the ancestors'."""
    oracle = Oracle(num_tokens=3, length=5, seed=2)
    search = SelfRewardingConfig(particles=4, every=1, ess=1.0)
    config = SamplerConfig(
        steps=5, schedule=FixedCountConfig(), corrector=FreeCorrectionConfig(), inputs=MixtureConfig(),
        guard=GuardConfig(edits_per_position=2, cooldown=1), search=search,
    )  # fmt: skip
    sampler = sampler_of(oracle, config)
    canvas = torch.full((6, 5), 3)
    state = sampler.start(canvas, torch.zeros_like(canvas, dtype=torch.bool), torch.arange(6), torch.zeros(6).long())
    weight = torch.rand(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9
    tag = torch.arange(24)
    slot = {name for name, field in state.declared().items() if not field.follows}
    assert slot == {"ids", "keys", "sweep_keys", "pinned"}
    kept = slot | {"active", "tick", "fixed", "tokens", "inner", "alive", "log_weight", "barrier"}
    marked = {
        n: tag.view(-1, *[1] * (v.dim() - 1)).expand(v.shape).to(v.dtype).clone()
        for n, v in state.tensors().items()
        if n not in kept and v.dtype != torch.bool
    }
    state = state.having(marked | {"log_weight": weight, "barrier": torch.ones(24, dtype=torch.long)})
    chosen = sampler.ancestors(state, torch.softmax(weight.view(-1, 4), -1)) + tag // 4 * 4
    assert not torch.equal(chosen, tag)
    after = sampler.resample(state)
    for name in marked:
        values = after.tensors()[name].reshape(24, -1)[:, 0]
        assert torch.equal(values.long(), chosen), name
    for name in slot:
        assert torch.equal(after.tensors()[name], state.tensors()[name]), name


def test_systematic_resampling_keeps_each_count_within_one():
    oracle = Oracle(num_tokens=2, length=3, seed=0)
    sampler = sampler_of(oracle, SamplerConfig(search=SelfRewardingConfig(particles=8, resampling="systematic"), **ONE_BY_ONE))
    canvas = torch.full((200, 3), 2)
    state = sampler.start(
        canvas, torch.zeros_like(canvas, dtype=torch.bool), torch.arange(200), torch.zeros(200).long()
    )
    weight = torch.rand(200, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = weight / weight.sum(-1, keepdim=True)
    chosen = sampler.ancestors(state, weight).view(200, 8)
    counts = torch.nn.functional.one_hot(chosen, 8).sum(1)
    assert bool((counts >= (8 * weight).floor()).all())
    assert bool((counts <= (8 * weight).ceil()).all())


def test_the_best_of_n_is_the_most_probable_or_the_most_rewarded(device):
    oracle = Oracle(num_tokens=3, length=4, seed=2, device=device)
    chance = {}
    for number in (2, 8):
        search = BestOfConfig(particles=number)
        tokens = tokens_of(run(oracle, SamplerConfig(search=search, **ONE_BY_ONE), rows_of(oracle, 300)))
        chance[number] = float(oracle.joint[oracle.index(tokens)].log().mean())
    plain = tokens_of(run(oracle, SamplerConfig(**ONE_BY_ONE), rows_of(oracle, 300)))
    assert float(oracle.joint[oracle.index(plain)].log().mean()) < chance[2] < chance[8]
    search = BestOfConfig(particles=6, reward="x")
    tokens = tokens_of(run(oracle, SamplerConfig(search=search, **ONE_BY_ONE), rows_of(oracle, 200)))
    assert float((tokens[:, -1] == 2).double().mean()) > 0.9
