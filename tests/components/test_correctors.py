"""Each corrector and schedule on its own terms: what its paper promises, and what released code gets wrong."""

from __future__ import annotations

import decimal
import math
from dataclasses import replace

import pytest
import torch

from components.diffusion import select
from components.models.denoiser import Prediction
from components.samplers import SamplerConfig, presets, rules
from components.samplers.config import BlocksConfig, GuardConfig
from components.samplers.contract import NO_EXTRAS, Answer, Row, Vocabulary
from components.samplers.correctors.dsc import push
from components.samplers.correctors.scores import difference
from components.samplers.forward import Batching, answer, measure
from components.samplers.options.correctors import (
    DscConfig,
    FreeCorrectionConfig,
    PrismConfig,
    ProsecoCorrectorConfig,
    TokenEditConfig,
)
from components.samplers.options.orders import ConfidenceConfig, EntropyConfig, MarginConfig, RandomConfig
from components.samplers.options.schedules import (
    AncestralConfig,
    EntropyBoundConfig,
    FactorConfig,
    FixedCountConfig,
    ThresholdConfig,
)
from components.samplers.sampler import build_sampler
from components.samplers.standing import stand
from tests.decoding import decode, drive, rows_of, run, sampler_of
from tests.oracle import Oracle

GREEDY = replace(SamplerConfig().draw, temperature=0.0)


def agreeing(outcomes: torch.Tensor) -> torch.Tensor:
    """A joint in which tokens of a row agree: a Potts model, 1.2 nats for each pair."""
    agree = outcomes[:, :, None] == outcomes[:, None, :]
    return torch.exp(0.6 * agree.sum((1, 2)).double())


def planted(oracle: Oracle, count: int = 20) -> list[Row]:
    """Rows of ones with a two at the first position, free to be changed, and two masks at the end."""
    canvas = (2, *[1] * (oracle.length - 3), oracle.mask_id, oracle.mask_id)
    return [Row(i, canvas, (False,) * oracle.length) for i in range(count)]


def preset(name: str, **changes) -> SamplerConfig:
    return replace(presets.preset(name), **changes)


@pytest.mark.parametrize(
    "config",
    [
        preset("prism", steps=2, corrector=PrismConfig(start=0.0)),
        preset("prism", steps=2, corrector=PrismConfig(start=0.0, score="loo")),
        preset("dsc"),
        preset("dsc", corrector=DscConfig(score="visible")),
        preset("free_correction", steps=3, corrector=FreeCorrectionConfig(score="loo", starts=(0.0,), shares=(0.3,))),
        preset("free_correction", steps=3, corrector=FreeCorrectionConfig(starts=(0.0,), shares=(0.3,))),
        preset("token_edit"),
        preset("token_edit", corrector=TokenEditConfig(action="remask")),
        preset("smart", steps=4),
        preset("proseco", steps=4),
    ],
    ids=lambda config: f"{config.preset} {config.corrector}",
)
def test_a_planted_wrong_token_is_found_and_mended(config):
    """All tokens of a row agree, and one does not: it is the first to be changed, and all end alike."""
    oracle = Oracle(num_tokens=3, length=7, joint=agreeing)
    config = replace(config, draw=GREEDY)
    steps = list(drive(oracle, sampler_of(oracle, config), planted(oracle)))
    changed = next(r.remasked | r.replaced for _, _, r in steps if bool((r.remasked | r.replaced).any()))
    assert bool(changed[:, 0].all())
    if config.preset != "smart":  # which always masks its n least confident, right or wrong
        assert int(changed.sum()) == len(changed)
    assert bool((steps[-1][1].tokens == 1).all())


def test_plain_samplers_keep_the_wrong_token(device):
    oracle = Oracle(num_tokens=3, length=6, joint=agreeing, device=device)
    assert all(s.tokens[0] == 2 for s in run(oracle, preset("mdlm"), planted(oracle)).values())


@pytest.mark.parametrize("total", [8, 10])
@pytest.mark.parametrize("steps", [5, 10, 16, 64])
@pytest.mark.parametrize("name", ["free_correction", "random_swap", "mask_predict", "smart", "maskgit", "prism"])
def test_the_masks_after_every_tick_are_the_schedules(name, steps, total):
    """Swapping changes no count, at the tick where a phase begins either (released code reveals too many there).
    Exact where total times the share is whole, which float32 would miss."""
    oracle = Oracle(num_tokens=2, length=total, seed=1)
    config = preset(name, steps=steps)
    swapped = 0
    for before, after, record in drive(oracle, sampler_of(oracle, config), rows_of(oracle, 30)):
        tick = int(before.tick[before.active][0])
        planned = {
            "c": math.floor(total * math.cos(math.pi / 2 * tick / steps) + 1e-9),
            "l": total * (steps - tick) // steps,
        }
        if name == "prism":
            per = [total // steps + (k < total % steps) for k in range(steps)]
            expected = total - sum(per[:tick])
        else:
            expected = planned["l" if name in ("mask_predict", "smart") else "c"]
            expected = 0 if tick >= steps else max(1, expected)
        masks = (after.tokens == oracle.mask_id).sum(-1)
        assert bool((masks == expected).all()), (tick, masks, expected)
        swapped += int(record.remasked.sum())
    if name != "maskgit" and steps <= 16:
        assert swapped > 0


@pytest.mark.parametrize("inner", ["argmax", "top_k", "sample"])
def test_a_token_of_a_draft_is_as_likely_as_the_network_says_that_saw_it(inner):
    """Of those that the last pass changes, and those that it leaves as they were in the draft."""
    oracle = Oracle(num_tokens=3, length=6, seed=2)
    config = preset("proseco", steps=4, corrector=ProsecoCorrectorConfig(passes=2, inner=inner, inner_top_k=1))
    changed = kept = 0
    for before, after, record in drive(oracle, sampler_of(oracle, config), rows_of(oracle, 20)):
        logits = oracle(before.draft).logits.clone()
        logits[..., oracle.mask_id] = float("-inf")
        told = torch.softmax(logits, -1).gather(-1, after.tokens[..., None])[..., 0]
        assert torch.allclose(record.confidence[record.replaced].double(), told[record.replaced].double(), atol=1e-6)
        same = record.replaced & (after.tokens == before.draft)
        kept, changed = kept + int(same.sum()), changed + int((record.replaced & ~same).sum())
    assert kept
    assert changed


def test_mask_predict_keeps_the_confidence_of_what_it_keeps_and_smart_refreshes_it():
    oracle = Oracle(num_tokens=3, length=6, seed=2)
    refreshed = 0
    for name in ("mask_predict", "smart"):
        for before, after, record in drive(oracle, sampler_of(oracle, preset(name, steps=5)), rows_of(oracle, 20)):
            kept = (before.tokens != oracle.mask_id) & ~record.remasked
            same = after.confidence[kept] == before.confidence[kept]
            if name == "mask_predict":
                assert bool(same.all())
            else:
                refreshed += int((~same).sum())
    assert refreshed > 0


def test_every_pass_of_mask_predict_masks_the_least_confident_of_all():
    oracle = Oracle(num_tokens=3, length=6, seed=2)
    for before, after, record in drive(
        oracle, sampler_of(oracle, preset("mask_predict", steps=4)), rows_of(oracle, 30)
    ):
        combined = torch.where(before.tokens == oracle.mask_id, record.confidence, before.confidence)
        masked = after.tokens == oracle.mask_id
        revealed_or_kept = torch.where(masked, float("inf"), after.confidence).amin(-1)
        remasked = torch.where(record.remasked, combined, 0).amax(-1)
        assert bool((remasked <= revealed_or_kept + 1e-6).all())


def test_the_running_mean_forgets_what_is_masked():
    oracle = Oracle(num_tokens=3, length=8, seed=2)
    config = preset("free_correction", steps=8)
    sampler = sampler_of(oracle, config)
    calls, most = torch.zeros(30, oracle.length, dtype=torch.float64), 0
    for before, after, record in drive(oracle, sampler, rows_of(oracle, 30)):
        calls += (before.tokens != oracle.mask_id) & sampler.query(before).active[:, None]
        calls[record.remasked] = 0
        # p and 1 - p of every call since the token was written.
        assert torch.allclose(after["score_sum"] + after["doubt_sum"], calls)
        most += int(record.remasked.sum())
    assert most > 0


def test_a_listed_position_is_not_masked_again_for_as_many_pushes_as_the_list_is_long():
    """tau = -1 calls everything wrong; the loop ends under the cap on steps all the same."""
    oracle = Oracle(num_tokens=3, length=8, seed=2)
    config = preset("dsc", steps=20, corrector=DscConfig(threshold=-1.0, queue=4, num_remasked=1))
    history: list[list[int]] = [[] for _ in range(10)]
    steps = list(drive(oracle, sampler_of(oracle, config), rows_of(oracle, 10)))
    for _, _, record in steps:
        for row, position in record.remasked.nonzero().tolist():
            assert position not in history[row][-4:]
            history[row].append(position)
    assert max(len(h) for h in history) > 4
    assert not bool((steps[-1][1].tokens == oracle.mask_id).any())


def test_the_block_list_takes_the_worst_first_and_drops_the_oldest():
    listed = torch.tensor([[4, 2, -1]])
    chosen = torch.tensor([[True, False, False, True, False]])
    error = torch.tensor([[0.6, 0.0, 0.0, 0.9, 0.0]])
    assert push(listed, chosen, error).tolist() == [[3, 0, 4]]
    assert push(listed, torch.zeros_like(chosen), error).tolist() == [[4, 2, -1]]


def test_the_confidence_threshold_reveals_at_least_one_and_all_that_pass():
    oracle = Oracle(num_tokens=3, length=6, joint=agreeing)
    config = preset("threshold", draw=GREEDY, schedule=ThresholdConfig(0.6))
    several = 0
    for before, _, record in drive(oracle, sampler_of(oracle, config), rows_of(oracle, 30, prompt=1)):
        masked = (before.tokens == oracle.mask_id) & before.active[:, None]
        number = record.revealed.sum(-1)
        assert bool((number[masked.any(-1)] >= 1).all())
        passed = masked & (record.confidence > 0.6)
        assert bool((record.revealed | ~passed).all())
        several += int((number > 1).sum())
    assert several > 0


def test_a_confidence_equal_to_the_threshold_passes_it():
    """Two tokens of 1/2 each everywhere: all at once at a threshold of 1/2, one at a time a little above it."""
    oracle = Oracle(num_tokens=2, length=6, joint=lambda outcomes: torch.ones(len(outcomes)))
    for threshold, calls in ((0.5, 1), (0.5001, 6)):
        config = preset("threshold", schedule=ThresholdConfig(threshold))
        assert {s.calls for s in run(oracle, config, rows_of(oracle, 5)).values()} == {calls}


@pytest.mark.parametrize("sharpness", [1.0, 4.0, 16.0, 40.0])
@pytest.mark.parametrize("order", [ConfidenceConfig(), ConfidenceConfig(noise=1e-300), MarginConfig()])
def test_sharp_networks_are_ranked_by_the_confidence_that_they_have(order, sharpness):
    """100 rows of float32 logits, of which most probabilities round to 1 in float32: what comes first is what does so
    in exact arithmetic, by the gap to the other of two tokens."""
    logits = sharp(sharpness)
    config = SamplerConfig(steps=6, schedule=FixedCountConfig(), unmask=order, draw=GREEDY)
    oracle = Oracle(num_tokens=2, length=6, seed=0)
    expected = (logits[..., 0] - logits[..., 1]).abs().argsort(dim=-1, descending=True)
    for tick, (_, _, record) in enumerate(drive(Constant(logits), sampler_of(oracle, config), rows_of(oracle, 100))):
        assert torch.equal(record.revealed.long().argmax(-1), expected[:, tick])


def sharp(sharpness: float) -> torch.Tensor:
    """Float32 logits of 100 rows of 6 positions with two tokens, most of whose probabilities round to 0 or 1; the mask is
    no token."""
    logits = torch.randn(100, 6, 3, generator=torch.Generator().manual_seed(3)) * sharpness
    logits[..., 2] = -math.inf
    return logits


class Constant:
    """Says the same whatever it is shown, but at rows without a mask, where it says ``then``; quality is ``heads``."""

    def __init__(self, logits, then=None, heads=None):
        self.logits, self.then, self.heads = logits, logits if then is None else then, heads

    def __call__(self, tokens, *, select=None, heads=(), **given):
        full = (tokens != 2).all(-1)[:, None, None]
        logits = torch.where(full, *(x.expand(len(tokens), -1, -1) for x in (self.then, self.logits)))
        return Prediction(logits if select is None else logits.flatten(0, 1)[select], dict.fromkeys(heads, self.heads))


@pytest.mark.parametrize("score", ["commit", "visible", "mean", "loo", "quality"])
@pytest.mark.parametrize("name", ["free_correction", "prism", "dsc"])
def test_the_worst_of_a_sharp_network_are_those_of_exact_arithmetic(name, score):
    """Not the leftmost, which is where all are 1 in float32. What was confident when written is so at every call here."""
    oracle, remasked = Oracle(num_tokens=2, length=6, seed=0), 0
    corrector = {
        "free_correction": FreeCorrectionConfig(score=score, starts=(0.0,), shares=(0.3,)),
        "prism": PrismConfig(score=score, start=0.0),
        "dsc": DscConfig(score=score, threshold=-1.0, num_remasked=1, queue=1),
    }[name]
    config = preset(name, steps=6, corrector=corrector, draw=GREEDY, unmask=RandomConfig())
    for logits in sharp(40.0)[:8]:
        gap = (logits[..., 0] - logits[..., 1]).abs().double()
        network = Constant(logits[None], heads=1 - torch.sigmoid(-gap / 8).expand(20, -1))
        for before, _, record in drive(network, sampler_of(oracle, config), rows_of(oracle, 20)):
            old = (before.tokens != 2) & record.remasked.any(-1, keepdim=True)
            if name == "dsc":
                old &= (before["block_list"][..., None] != torch.arange(6)).all(1)
            worst = torch.where(record.remasked, gap, 0).amax(-1)
            assert bool((worst <= torch.where(old & ~record.remasked, gap, math.inf).amin(-1)).all())
            remasked += int(record.remasked.sum())
    assert remasked > 50


@pytest.mark.parametrize("name", ["mask_predict", "smart"])
def test_the_masks_of_a_sharp_network_are_its_least_confident_of_exact_arithmetic(name):
    logits = sharp(16.0)
    order = (logits[..., 0] - logits[..., 1]).abs().argsort(dim=-1)
    oracle = Oracle(num_tokens=2, length=6, seed=0)
    steps = drive(Constant(logits), sampler_of(oracle, preset(name, steps=6)), rows_of(oracle, 100))
    for tick, (_, after, _) in enumerate(steps, 1):
        assert torch.equal((after.tokens == 2), torch.zeros(100, 6).scatter(-1, order[:, : 6 - tick], 1).bool())


def test_the_gentlest_pass_of_a_sharp_network_changes_what_it_is_surest_of():
    """A draft of which every token is wrong: one pass changes the one of largest odds."""
    logits = sharp(16.0)
    oracle = Oracle(num_tokens=2, length=6, seed=0)
    network = Constant(logits, then=logits[..., [1, 0, 2]])
    corrector = ProsecoCorrectorConfig(passes=1, draft="argmax", inner="top_k")
    config = preset("proseco_confidence", steps=6, corrector=corrector, draw=GREEDY)
    (before, after, _), *_ = list(drive(network, sampler_of(oracle, config), rows_of(oracle, 100)))[1:]
    gap = (logits[..., 0] - logits[..., 1]).abs()
    assert torch.equal((after.draft != before.draft).long().argmax(-1), gap.argmax(-1))
    assert bool(((after.draft != before.draft).sum(-1) == 1).all())


@pytest.mark.parametrize("corrector", [TokenEditConfig(rounds=1), ProsecoCorrectorConfig(passes=1, draft="argmax")])
def test_a_limit_lets_the_surest_edits_of_a_sharp_network_through(corrector):
    logits = sharp(16.0)
    oracle = Oracle(num_tokens=2, length=6, seed=0)
    rows = [Row(i, tuple(logits[i, :, :2].argmin(-1).tolist()), (False,) * 6) for i in range(100)]
    config = SamplerConfig(steps=1, schedule=AncestralConfig(), corrector=corrector, guard=GuardConfig(edit_share=0.2))
    changed = torch.zeros(100, 6, dtype=torch.long)
    for _, _, record in drive(Constant(logits), sampler_of(oracle, config), rows):
        changed += record.replaced
    gap = (logits[..., 0] - logits[..., 1]).abs()
    assert torch.equal(changed, torch.nn.functional.one_hot(gap.argmax(-1), 6))


def test_a_drop_is_that_of_exact_arithmetic():
    """In order and to 1e-9 of its size, also where p and 1 - p are below the last bit of the other."""
    odds = [-50.0, -40.0, -3.0, 0.0, 2.0, 36.0, 38.0, 60.0]
    pairs = [(now, then) for now in odds for then in odds]
    with decimal.localcontext(prec=60):
        p = {x: 1 / (1 + decimal.Decimal(-x).exp()) for x in odds}
        exact = torch.tensor([float(p[now] - p[then]) for now, then in pairs], dtype=torch.float64)
    found = difference(*torch.tensor(pairs, dtype=torch.float64).T)
    assert torch.allclose(found, exact, rtol=1e-9, atol=0)


def test_every_candidate_comes_before_what_is_none():
    low = torch.tensor([[0.0, 0.0, -math.inf, -math.inf]])
    candidates = torch.tensor([[False, False, True, True]])
    assert select.best(low, candidates, torch.tensor([1])).tolist() == [[False, False, True, False]]


def test_the_factor_rule_is_the_largest_n_that_keeps_it():
    """Fast-dLLM: (n + 1)(1 - c_n) < f with c_n the n-th largest confidence."""
    from components.samplers.schedules.adaptive import Factor

    confidence = torch.tensor([[0.99, 0.6, 0.95, 0.9], [0.3, 0.2, 0.1, 0.4], [1.0, 1.0, 1.0, 1.0]])
    candidates = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
    blank = sampler_of(Oracle(2, 4), SamplerConfig())
    canvas = torch.full((3, 4), 2)
    state = blank.start(canvas, torch.zeros_like(canvas, dtype=torch.bool), torch.arange(3), torch.zeros(3).long())
    none = torch.zeros(0, dtype=torch.int64)
    view = blank.read(state, stand(blank.parts, state), Answer(none, torch.zeros(0, 3), none))
    view = replace(view, confidence=confidence, log_odds=torch.logit(confidence))
    factor = Factor(FactorConfig(0.3), blank.parts.corrector, NO_EXTRAS)
    chosen = factor.reveal(state, candidates, confidence, view, torch.zeros(3))
    # n = 1: 2 x 0.01; n = 2: 3 x 0.05; n = 3: 4 x 0.1 = 0.4 is too much. None passes in row 2: one all the same.
    assert chosen.tolist() == [[True, False, True, False], [False, False, False, True], [True, True, False, False]]


def test_the_entropy_bound_grows_what_a_call_reveals(device):
    oracle = Oracle(num_tokens=3, length=7, seed=2, device=device)
    calls = []
    for gamma in (0.0, 0.5, 2.0, 20.0):
        config = preset("entropy_bound", schedule=EntropyBoundConfig(gamma))
        samples = run(oracle, config, rows_of(oracle, 40))
        calls.append(sum(s.calls for s in samples.values()) / 40)
    assert calls[0] == 7
    assert calls[-1] == 1
    assert calls == sorted(calls, reverse=True)


@pytest.mark.parametrize(
    "schedule", [FixedCountConfig(), ThresholdConfig(0.8), FactorConfig(), EntropyBoundConfig(0.3)]
)
def test_blocks_are_written_from_left_to_right(schedule):
    oracle = Oracle(num_tokens=2, length=8, seed=1)
    unmask = EntropyConfig() if isinstance(schedule, EntropyBoundConfig) else ConfidenceConfig()
    config = SamplerConfig(steps=6, schedule=schedule, unmask=unmask, blocks=BlocksConfig(length=3))
    for _, after, _ in drive(oracle, sampler_of(oracle, config), rows_of(oracle, 20, prompt=1)):
        masked = after.tokens == oracle.mask_id
        for block in (range(1, 4), range(4, 7)):
            later = masked[:, block.stop :]
            begun = (~later).any(-1)
            assert not bool((masked[:, block.start : block.stop].any(-1) & begun).any())


def test_the_ticks_of_a_row_are_divided_over_its_blocks(device):
    """8 positions in 2 blocks and 4 ticks: 2 a call, as LLaDA's steps per block."""
    oracle = Oracle(num_tokens=2, length=8, seed=1, device=device)
    config = SamplerConfig(
        steps=4, schedule=FixedCountConfig(), unmask=ConfidenceConfig(), blocks=BlocksConfig(length=4)
    )
    assert {s.calls for s in run(oracle, config, rows_of(oracle, 9)).values()} == {4}


def test_text_ends_early_row_by_row(device):
    """Token 0 ends a text: what follows is filled without calls, once nothing before it is masked."""
    oracle = Oracle(num_tokens=3, length=8, seed=1, device=device)
    config = SamplerConfig(
        steps=8, schedule=FixedCountConfig(), unmask=ConfidenceConfig(), blocks=BlocksConfig(length=2)
    )
    samples = run(oracle, config, rows_of(oracle, 60), end_id=0).values()
    assert len({s.calls for s in samples}) > 2
    for s in samples:
        if 0 in s.tokens:
            first = s.tokens.index(0)
            assert s.tokens[first + 1 + (first + 1) % 2 :].count(0) == len(s.tokens) - (first + 1 + (first + 1) % 2)
    keeps = replace(config, blocks=BlocksConfig(length=2, early_end=False))
    assert {s.calls for s in run(oracle, keeps, rows_of(oracle, 60), end_id=0).values()} == {8}


def test_an_end_token_in_the_prompt_ends_nothing(device):
    oracle = Oracle(num_tokens=3, length=6, seed=1, device=device)
    config = SamplerConfig(
        steps=5, schedule=FixedCountConfig(), unmask=ConfidenceConfig(), blocks=BlocksConfig(length=5)
    )
    samples = run(oracle, config, rows_of(oracle, 30, prompt=0), end_id=0).values()
    assert any(set(s.tokens[1:]) - {0} for s in samples)


MASK = 9


class Flips:
    """Says 5 at masks; at visible positions always another token than the one there."""

    def __init__(self):
        self.shown = []

    def __call__(self, tokens, *, select=None, label=None, time=None, soft=None, dense=None, heads=()):
        self.shown.append(tokens.clone())
        best = torch.where(tokens == MASK, 5, (tokens + 1) % 8)
        logits = torch.zeros(*tokens.shape, MASK + 1).scatter(-1, best[..., None], 20.0)
        return Prediction(logits if select is None else logits.flatten(0, 1)[select])


def flipped(config: SamplerConfig, length: int = 4, denoiser=None):
    row = Row(0, (MASK,) * length, (False,) * length)
    return decode(denoiser or Flips(), build_sampler(config, Vocabulary(MASK)), [row], 1)[0]


def test_editing_stops_after_its_rounds_and_at_a_canvas_that_it_has_seen():
    base = preset("token_edit", guard=GuardConfig())
    for rounds in (0, 1, 5):
        sample = flipped(replace(base, corrector=TokenEditConfig(rounds=rounds)))
        assert sample.calls == 1 + rounds
        assert sample.tokens == ((5 + rounds) % 8,) * 4
    # The flips have a period of 8: the ninth round would show the canvas of the first.
    assert flipped(replace(base, corrector=TokenEditConfig(rounds=30))).calls == 1 + 9


def test_a_content_network_needs_one_round():
    class Content(Flips):
        def __call__(self, tokens, **kwargs):
            best = torch.where(tokens == MASK, 5, tokens)
            logits = torch.zeros(*tokens.shape, MASK + 1).scatter(-1, best[..., None], 20.0)
            select = kwargs.get("select")
            return Prediction(logits if select is None else logits.flatten(0, 1)[select])

    assert flipped(preset("token_edit"), denoiser=Content()).calls == 2


@pytest.mark.parametrize(
    ("guard", "edits"),
    [
        (GuardConfig(), 5 * 4),
        (GuardConfig(edits_per_position=2), 2 * 4),
        (GuardConfig(edit_share=0.25), 5),
        (GuardConfig(edit_share=0.01), 5),
    ],
    ids=str,
)
def test_every_corrector_obeys_the_guard(guard, edits):
    config = preset("token_edit", guard=guard, corrector=TokenEditConfig(rounds=5))
    assert flipped(config).edits == edits


def test_a_cooldown_leaves_fresh_tokens_alone():
    oracle = Oracle(num_tokens=3, length=8, seed=2)
    config = preset("prism", steps=8, corrector=PrismConfig(start=0.0), guard=GuardConfig(cooldown=2))
    remasked = 0
    for before, _, record in drive(oracle, sampler_of(oracle, config), rows_of(oracle, 30)):
        age = before.tick[:, None] - before["written_at"]
        assert bool((age[record.remasked] > 2).all())
        remasked += int(record.remasked.sum())
    assert remasked > 0


def test_a_confident_network_skips_the_loop():
    """skip_above: no loop where every drafted token is at least so probable; the draws are from the first pass."""
    sure = Flips()
    config = preset("proseco_confidence", steps=2, corrector=ProsecoCorrectorConfig(passes=3, skip_above=0.9))
    assert flipped(config, denoiser=sure).calls == 2
    unsure = preset("proseco_confidence", steps=2, corrector=ProsecoCorrectorConfig(passes=3, skip_above=1.0))
    assert flipped(unsure).calls == 2 * 4


def test_with_a_region_later_blocks_are_a_frozen_draft():
    """The corrector sees a draft everywhere and rewrites up to the end of the active block."""
    shown = Flips()
    config = SamplerConfig(
        steps=2, schedule=FixedCountConfig(), unmask=ConfidenceConfig(), blocks=BlocksConfig(length=2),
        draw=GREEDY, corrector=ProsecoCorrectorConfig(passes=2, draft="argmax", region="generated"),
    )  # fmt: skip
    sample = flipped(config, denoiser=shown)
    drafts = [t[0].tolist() for t in shown.shown if MASK not in t[0].tolist()]
    assert drafts[:2] == [[5, 5, 5, 5], [6, 6, 5, 5]]
    assert MASK not in sample.tokens


def test_scores_are_one_family():
    """Every score ranks a planted error lowest where it can know of it; commit-time confidence cannot."""
    from components.samplers.correctors.scores import SCORES

    oracle = Oracle(num_tokens=3, length=7, joint=agreeing)
    for name in sorted(SCORES):
        config = preset(
            "free_correction", steps=4, corrector=FreeCorrectionConfig(score=name, starts=(0.0,), shares=(0.3,))
        )
        assert not rules.problems(config, "s")
        first = next(drive(oracle, sampler_of(oracle, config), planted(oracle)))[2]
        found = first.remasked[:, 0].double().mean()
        if name in ("visible", "mean", "drop", "loo", "quality"):
            assert found == 1, name
        assert bool((first.remasked.sum(-1) == 1).all()), name


def test_leave_one_out_costs_a_call_for_every_visible_token(device):
    oracle = Oracle(num_tokens=2, length=6, seed=1, device=device)
    base = preset("prism", steps=3)
    plain = run(oracle, replace(base, corrector=PrismConfig(score="quality", start=0.0)), rows_of(oracle, 5))
    loo = run(oracle, replace(base, corrector=PrismConfig(score="loo", start=0.0)), rows_of(oracle, 5))
    assert {s.calls for s in plain.values()} == {3}
    assert {s.calls for s in loo.values()} == {3 + 0 + 2 + 4}


def test_raw_rows_at_visible_positions_are_what_the_network_says_of_them():
    """A carried-over row would make every score of it 1."""
    oracle = Oracle(num_tokens=3, length=6, seed=1)
    config = preset("free_correction", steps=6, corrector=FreeCorrectionConfig(score="visible"))
    sampler, seen = sampler_of(oracle, config), []
    for before, _, _ in drive(oracle, sampler, rows_of(oracle, 30)):
        query = sampler.query(before)
        said = answer(oracle, query, measure(query), Batching(30, always=True))
        view = sampler.read(before, stand(sampler.parts, before), said)
        visible = (before.tokens != oracle.mask_id) & query.active[:, None]
        own = oracle(before.tokens).logits.softmax(-1).gather(-1, before.tokens.clamp(max=2)[..., None])[..., 0]
        assert torch.allclose(view.current[visible].double(), own[visible], atol=1e-6)
        seen.append(own[visible])
    assert float(torch.cat(seen).var()) > 1e-3


@pytest.mark.parametrize("name", ["llada_block", "proseco_llada"])
def test_with_fewer_steps_than_blocks_each_block_has_a_tick_of_its_own(name, device):
    """70 positions in 35 blocks and 4 steps, of which the released code makes none for each block."""
    first = Oracle(num_tokens=2, length=2, seed=1, device=device)
    length, most = 70, []

    class Long:
        def __call__(self, tokens, **given):
            logits = torch.zeros(*tokens.shape, 3, dtype=torch.float64)
            return Prediction(logits if given.get("select") is None else logits.flatten(0, 1)[given["select"]], {})

    config = replace(presets.preset(name), steps=4, blocks=BlocksConfig(length=2, early_end=False))
    row = Row(1, (first.mask_id,) * length, (False,) * length)
    for _, _, record in drive(Long(), sampler_of(first, config), [row]):
        most.append(int(record.revealed.sum()))
    assert sum(most) == length
    assert max(most) == 2


@pytest.mark.parametrize("schedule", [ThresholdConfig(1.0), FactorConfig(0.0), FixedCountConfig(per_call=1)])
def test_the_last_fill_writes_a_block_at_a_time(schedule):
    """3 ticks of one position each, and two blocks of 4 are left, each of which is written by a call."""
    oracle = Oracle(num_tokens=2, length=8, seed=1)
    config = SamplerConfig(steps=3, schedule=schedule, unmask=ConfidenceConfig(), blocks=BlocksConfig(length=4))
    sampler = sampler_of(oracle, config)
    written = [int(r.revealed.sum()) for _, _, r in drive(oracle, sampler, rows_of(oracle, 1))]
    assert written == [1, 1, 1, 1, 4]
    assert sampler.max_calls(8) == 5
