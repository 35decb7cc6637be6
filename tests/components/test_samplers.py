"""Contracts of every sampler, the exact law under the oracle, and the pitfalls of the published code."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace

import pytest
import torch

from components.errors import SamplingError
from components.models.denoiser import Prediction
from components.samplers import SamplerConfig, rules
from components.samplers.contract import Row, Vocabulary
from components.samplers.correctors.proseco import row_hash
from components.samplers.options.correctors import (
    DscConfig,
    NoCorrectorConfig,
    PrismConfig,
    ProsecoCorrectorConfig,
    RandomSwapConfig,
)
from components.samplers.options.orders import ConfidenceConfig, RandomConfig
from components.samplers.options.schedules import AncestralConfig, FirstHittingConfig, FixedCountConfig, ThresholdConfig
from components.samplers.rollout import play
from components.samplers.sampler import build_sampler
from tests.components.test_int8 import DTYPES
from tests.decoding import decode, rows_of, run
from tests.oracle import Oracle, chi_square

COUNTED = {"schedule": FixedCountConfig(), "unmask": ConfidenceConfig()}


def combinations() -> list[SamplerConfig]:
    """Every allowed product of schedule, order and corrector options."""
    correctors = [
        NoCorrectorConfig(),
        *(
            ProsecoCorrectorConfig(every=e, passes=s, draft=d, draft_positions=p, inner=i, start=b)
            for e, s, d, p, i, b in [
                (1, 1, "argmax", "masked", "argmax", 1),
                (1, 3, "sample", "all", "argmax", 1),
                (2, 4, "sample", "masked", "top_k", 1),
                (2, 2, "argmax", "all", "sample", 2),
                (3, 5, "sample", "masked", "argmax", 1),
            ]
        ),
    ]
    orders = [
        (AncestralConfig(), RandomConfig()),
        (AncestralConfig(t_end=0.2), RandomConfig()),
        (FixedCountConfig(), RandomConfig()),
        (FixedCountConfig(), ConfidenceConfig()),
    ]
    return [
        SamplerConfig(steps=steps, schedule=s, unmask=u, corrector=c)
        for steps, (s, u), c in itertools.product((3, 7), orders, correctors)
    ]


@pytest.mark.parametrize("config", combinations(), ids=str)
def test_contract_of_every_combination(config, device):
    """Prompts kept, no mask left, the same alone, in a crowd and in another order, calls bounded."""
    oracle = Oracle(num_tokens=3, length=6, seed=3, device=device)
    rows = rows_of(oracle, 12, prompt=1)
    crowd = run(oracle, config, rows, lanes=5)
    assert set(crowd) == {r.id for r in rows}
    bound = build_sampler(config, Vocabulary(oracle.mask_id)).max_calls(oracle.length)
    for sample in crowd.values():
        assert sample.tokens[0] == 1
        assert oracle.mask_id not in sample.tokens
        assert 1 <= sample.calls <= bound
    assert run(oracle, config, rows[::-1], lanes=32) == crowd
    assert run(oracle, config, rows[4:5], lanes=1) == {rows[4].id: crowd[rows[4].id]}
    assert run(oracle, config, rows, lanes=5, deterministic=False) == crowd


@pytest.mark.parametrize("config", combinations(), ids=str)
def test_calls_reported_are_forwards_made(config, device):
    oracle = Oracle(num_tokens=3, length=6, seed=3, device=device)
    samples = run(oracle, config, rows_of(oracle, 9), lanes=4, deterministic=False)
    assert sum(s.calls for s in samples.values()) == oracle.calls


@pytest.mark.parametrize(
    "config",
    [
        SamplerConfig(steps=400),
        SamplerConfig(steps=400, schedule=AncestralConfig(t_end=0.3)),
        SamplerConfig(steps=3, schedule=FixedCountConfig(), unmask=RandomConfig()),
    ],
    ids=["ancestral", "ancestral with a last fill", "one at a time, random order"],
)
def test_exact_samplers_reproduce_the_joint(config, device):
    """20,000 rows; false alarm 1e-6. At 400 steps two of three positions share a tick in under 1% of
    rows, and that bias is far below sampling noise. The last fill reveals in one call, so there the
    law is exact only if at most one position was left; t_end = 0.3 leaves several: it must fail."""
    oracle = Oracle(num_tokens=3, length=3, seed=1, device=device)
    samples = run(oracle, config, rows_of(oracle, 20000), lanes=4096)
    tokens = torch.tensor([s.tokens for s in samples.values()])
    counts = torch.bincount(oracle.index(tokens), minlength=len(oracle.joint))
    statistic, limit = chi_square(counts, oracle.joint * len(tokens))
    if isinstance(config.schedule, AncestralConfig) and config.schedule.t_end == 0.3:
        assert statistic > limit
    else:
        assert statistic < limit


def test_reveal_ticks_follow_the_schedule():
    """The share still masked after tick k is 1 - k/T; 4 standard deviations, false alarm 6e-5 per tick, seeded."""
    steps, rows, length = 10, 4000, 5
    sampler = build_sampler(SamplerConfig(steps=steps), Vocabulary(9))
    canvas = torch.full((rows, length), 9)
    ids = torch.arange(rows)
    state = sampler.start(canvas, torch.zeros_like(canvas, dtype=torch.bool), ids, torch.full_like(ids, 5))
    ticks = state["reveal_tick"]
    for k in range(1, steps):
        share = float((ticks > k).double().mean())
        expected = 1 - k / steps
        assert abs(share - expected) < 4 * (expected * (1 - expected) / ticks.numel()) ** 0.5 + 1e-4


def test_ticks_without_an_event_need_no_call(device):
    oracle = Oracle(num_tokens=2, length=4, seed=0, device=device)
    samples = run(oracle, SamplerConfig(steps=1000), rows_of(oracle, 50))
    assert all(s.calls <= 4 for s in samples.values())


class Scripted:
    """A denoiser that answers by the kind of input and records what it was shown."""

    def __init__(self, vocab: int, answer):
        self.vocab, self.answer, self.seen = vocab, answer, []

    def __call__(self, tokens, *, select=None, label=None, time=None):
        self.seen.append(tokens.clone())
        best = self.answer(tokens)
        logits = torch.full((*tokens.shape, self.vocab), -30.0).scatter(-1, best[..., None], 30.0)
        return Prediction(logits if select is None else logits.flatten(0, 1)[select])


MASK = 9


def scripted(answer, config, length=4, rows=1):
    denoiser = Scripted(MASK + 1, answer)
    canvas = (MASK,) * length
    waiting = [Row(i, canvas, (False,) * length) for i in range(rows)]
    samples = list(decode(denoiser, build_sampler(config, Vocabulary(MASK)), waiting, rows).values())
    kinds = ["predict" if bool((t[0] == MASK).any()) else "correct" for t in denoiser.seen]
    return denoiser, samples, kinds


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_corrector_runs_at_ticks_that_omega_divides(every):
    """Pitfall 14. T = 7 ticks of one position each; the draft is a fixed point after one pass."""
    config = SamplerConfig(steps=7, corrector=ProsecoCorrectorConfig(every=every, passes=3, draft="argmax"), **COUNTED)
    _, samples, kinds = scripted(lambda t: torch.full_like(t, 5), config, length=7)
    expected = []
    for tick in range(1, 8):
        expected += ["predict"] + (["correct"] if tick % every == 0 else [])
    assert kinds == expected
    assert samples[0].calls == len(expected)


def test_a_corrector_that_would_never_run_is_refused():
    """Pitfall 15."""
    config = SamplerConfig(steps=4, corrector=ProsecoCorrectorConfig(every=8))
    assert "never run" in str(rules.problems(config, "s")[0])


@pytest.mark.parametrize(
    ("schedule", "steps", "last"),
    [
        (AncestralConfig(), 0, 7),
        (AncestralConfig(), 9, 9),
        (FirstHittingConfig(), 0, 7),
        (FirstHittingConfig(per_call=2), 0, 4),
        (ThresholdConfig(), 0, 7),
        (ThresholdConfig(), 5, 5),
        (FixedCountConfig(), 0, 7),
        (FixedCountConfig(), 9, 7),
        (FixedCountConfig(per_call=3), 0, 3),
    ],
)
def test_a_corrector_whose_first_tick_no_row_of_a_length_reaches_is_refused_for_that_length(schedule, steps, last):
    """Rows of 7 positions: the last tick that there can be is still right for omega, the one after it is not."""
    unmask = ConfidenceConfig() if isinstance(schedule, ThresholdConfig) else RandomConfig()
    config = SamplerConfig(steps=steps, schedule=schedule, unmask=unmask)
    for options in ({"every": 1}, {"start": 1}):
        name = next(iter(options))
        right, wrong = (
            build_sampler(replace(config, corrector=ProsecoCorrectorConfig(**{name: n})), Vocabulary(MASK))
            for n in (last, last + 1)
        )
        assert right.max_calls(7) > 7 // 3
        with pytest.raises(SamplingError, match=f"7 positions .* never run.*{last + 1} of {last} .*raise steps"):
            wrong.max_calls(7)


BY_HEAD = {"schedule": FixedCountConfig(), "unmask": RandomConfig()}
UNTIL_FULL = {"schedule": FixedCountConfig(per_call=2), "unmask": RandomConfig(), "steps": 0}


@pytest.mark.parametrize(
    ("right", "wrong", "parts"),
    [
        # 7 positions, 2 a tick: full after tick 4. What is masked at it is written at a fifth.
        (DscConfig(every=4), DscConfig(every=5), UNTIL_FULL),
        # What is masked at the last tick of all would be filled by one call.
        (DscConfig(every=2), DscConfig(every=3), UNTIL_FULL | {"steps": 3}),
        # At the last tick no mask is left that could make up for one.
        (PrismConfig(start=0.6), PrismConfig(start=0.81), BY_HEAD | {"steps": 5}),
        (PrismConfig(start=0.2, stop=0.4), PrismConfig(start=0.2, stop=0.39), BY_HEAD | {"steps": 5}),
        (PrismConfig(start=0.85), PrismConfig(start=0.86), BY_HEAD | {"steps": 10}),  # one a tick, full after 7
        (RandomSwapConfig(starts=(0.6,), shares=(1.0,)), RandomSwapConfig(starts=(0.8,), shares=(1.0,)), BY_HEAD | {"steps": 5}),
    ],
    ids=str,
)  # fmt: skip
def test_a_window_in_which_nothing_can_be_corrected_is_refused_and_the_next_larger_one_corrects(right, wrong, parts):
    oracle = Oracle(num_tokens=2, length=7, seed=1)
    right, wrong = (replace(c, score="random") for c in (right, wrong))
    right, wrong = (replace(c, threshold=-1.0) if isinstance(c, DscConfig) else c for c in (right, wrong))
    config = SamplerConfig(corrector=right, **parts)
    assert not rules.problems(config, "s")
    assert sum(s.edits for s in run(oracle, config, rows_of(oracle, 20)).values()) > 0
    refused = replace(config, corrector=wrong)
    with pytest.raises(SamplingError, match="7 positions the corrector would never run: its first tick is"):
        run(oracle, refused, rows_of(oracle, 1))
    sampler = build_sampler(refused, Vocabulary(oracle.mask_id))
    canvas = torch.full((20, 7), oracle.mask_id)
    state = sampler.start(canvas, canvas < 0, torch.arange(20), torch.zeros(20, dtype=torch.long))
    assert not any(bool(record.remasked.any()) for _, _, record in play(oracle, sampler, state))


def test_masked_tokens_are_drawn_from_the_last_corrector_pass():
    """Pitfall 16: the denoiser says 1, the corrector says 2; after a corrected tick only 2 may appear,
    and positions that the tick does not reveal stay masked."""
    config = SamplerConfig(steps=4, corrector=ProsecoCorrectorConfig(draft="argmax"), **COUNTED)
    answer = lambda t: torch.where((t == MASK).any(-1, keepdim=True), 1, 2) + torch.zeros_like(t)  # noqa: E731
    denoiser, samples, kinds = scripted(answer, config)
    assert samples[0].tokens == (2, 2, 2, 2)
    assert kinds == ["predict", "correct"] * 4
    masks = [int((t == MASK).sum()) for t, k in zip(denoiser.seen, kinds, strict=True) if k == "predict"]
    assert masks == [4, 3, 2, 1]


def test_without_corrector_ticks_the_draws_are_those_of_plain_sampling(device):
    """Pitfall 17: a corrector that has not begun changes nothing, bit for bit."""
    oracle = Oracle(num_tokens=3, length=6, seed=2, device=device)
    plain = SamplerConfig(steps=6, schedule=FixedCountConfig())  # a row with a prompt of one is full after five ticks
    late = dataclasses.replace(plain, corrector=ProsecoCorrectorConfig(start=6, every=6))
    rows = rows_of(oracle, 40, prompt=1)
    assert [s.tokens for s in run(oracle, plain, rows).values()] == [s.tokens for s in run(oracle, late, rows).values()]


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize(("positions", "passes", "calls"), [("masked", 1, 1), ("masked", 3, 1), ("all", 1, 2)])
def test_a_full_row_costs_what_its_loops_cost_and_one_that_is_all_prompt_nothing(every, positions, passes, calls):
    """8 ticks of a row of fives, of which the network wants nothing else; the third pass of a fixed point is not made."""
    corrector = ProsecoCorrectorConfig(every=every, passes=passes, draft_positions=positions)
    sampler = build_sampler(SamplerConfig(steps=8, corrector=corrector), Vocabulary(MASK))
    for fixed, expected in ((False, 8 // every * calls), (True, 0)):
        denoiser = Scripted(MASK + 1, lambda t: torch.full_like(t, 5))
        rows = [Row(i, (5,) * 4, (fixed,) * 4) for i in range(3)]
        samples = decode(denoiser, sampler, rows, 1, deterministic=False).values()
        assert [s.calls for s in samples] == [expected] * 3
        # One more for no row, where the size of the vocabulary is learned by it.
        assert sum(len(t) for t in denoiser.seen) in (3 * expected, 3 * expected + 1)
        assert all(s.tokens == (5,) * 4 for s in samples)


def test_a_single_tick_and_a_last_fill_leave_no_mask(device):
    """Pitfall 18."""
    oracle = Oracle(num_tokens=3, length=6, seed=2, device=device)
    for config in (SamplerConfig(steps=1), SamplerConfig(steps=4, schedule=AncestralConfig(t_end=0.9))):
        samples = run(oracle, config, rows_of(oracle, 50))
        assert all(oracle.mask_id not in s.tokens for s in samples.values())
    # At t_end = 0.9 hardly anything is revealed before the fill, and the fill is counted.
    assert sum(s.calls for s in samples.values()) > 50


def test_fixed_points_are_exact_and_each_rows_own():
    """Pitfall 20: ids 126000 and 126001 differ, and one oscillating row does not hold another."""
    low, high, mask = 126000, 126001, 126002

    class Neighbour:
        def __call__(self, tokens, *, select=None, label=None, time=None):
            flips = tokens[:, :1] == 7
            flipped = torch.where(tokens == low, high, low)
            best = torch.where(tokens == mask, low, torch.where(flips, flipped, tokens))
            best = torch.where(tokens == 7, 7, best)
            logits = torch.zeros(*tokens.shape, mask + 1).scatter(-1, best[..., None], 30.0)
            return Prediction(logits if select is None else logits.flatten(0, 1)[select])

    config = SamplerConfig(
        steps=1, draw=dataclasses.replace(SamplerConfig().draw, temperature=0),
        corrector=ProsecoCorrectorConfig(passes=5, draft="argmax"), **COUNTED,
    )  # fmt: skip
    rows = [Row(0, (7, mask, mask), (True, False, False)), Row(1, (6, mask, mask), (True, False, False))]
    sampler = build_sampler(config, Vocabulary(mask))
    together = decode(Neighbour(), sampler, rows, 2)
    alone = decode(Neighbour(), sampler, rows[:1], 1) | decode(Neighbour(), sampler, rows[1:], 1)
    assert together == alone
    assert together[1].calls == 2, "a fixed point needs one pass to be seen"
    assert together[1].tokens == (6, low, low)
    # Five passes from (low, low) end on (high, high); the cycle of two is seen at pass 2, and pass 3 has the parity.
    assert together[0].tokens == (7, high, high)
    assert together[0].calls == 4


@pytest.mark.parametrize("period", [1, 2, 3])
@pytest.mark.parametrize("passes", [1, 2, 3, 4, 5, 6, 7, 8])
def test_stopping_at_a_cycle_ends_where_all_passes_would(period, passes):
    """The answer and the draws of a loop stopped at a cycle are those of the full loop."""

    def answer(tokens):
        return torch.where(tokens == MASK, 0, torch.where(tokens < period, (tokens + 1) % period, tokens))

    config = SamplerConfig(
        steps=1, draw=dataclasses.replace(SamplerConfig().draw, temperature=0),
        corrector=ProsecoCorrectorConfig(passes=passes, draft="argmax"), **COUNTED,
    )  # fmt: skip
    _, samples, _ = scripted(answer, config)
    assert samples[0].tokens == ((passes % period),) * 4
    assert samples[0].calls <= 1 + passes


def test_hashes_tell_rows_apart():
    rows = torch.cartesian_prod(*[torch.arange(6)] * 6)
    assert len(row_hash(rows).unique()) == len(rows)


def test_the_mask_is_never_written():
    """Pitfalls 2 and 11: a network that favours the mask everywhere."""
    config = SamplerConfig(steps=3, corrector=ProsecoCorrectorConfig(passes=2, draft_positions="all"), **COUNTED)

    class Mad:
        def __call__(self, tokens, *, select=None, label=None, time=None):
            logits = torch.zeros(*tokens.shape, MASK + 1)
            logits[..., MASK] = 50
            return Prediction(logits if select is None else logits.flatten(0, 1)[select])

    rows = [Row(i, (MASK,) * 5, (False,) * 5) for i in range(8)]
    for sample in decode(Mad(), build_sampler(config, Vocabulary(MASK)), rows, 4).values():
        assert MASK not in sample.tokens


def test_a_sampled_draft_keeps_diversity_that_an_argmax_draft_loses(device):
    """Pitfall 27: with a corrector that copies its draft, an argmax first draft gives one sample."""
    oracle = Oracle(num_tokens=4, length=4, seed=5, concentration=1.0, device=device)

    class Copies:
        def __call__(self, tokens, **kwargs):
            found = oracle(tokens, **(kwargs | {"select": None}))
            full = (tokens != oracle.mask_id).all(-1)
            copied = torch.nn.functional.one_hot(tokens.clamp(max=3), 5).double() * 60
            logits = torch.where(full[:, None, None], copied, found.logits)
            return Prediction(logits if kwargs.get("select") is None else logits.flatten(0, 1)[kwargs["select"]])

    unique = {}
    for draft in ("argmax", "sample"):
        config = SamplerConfig(steps=1, corrector=ProsecoCorrectorConfig(passes=2, draft=draft), **COUNTED)
        sampler = build_sampler(config, Vocabulary(oracle.mask_id))
        samples = decode(Copies(), sampler, rows_of(oracle, 256), 64, device=device)
        unique[draft] = len({s.tokens for s in samples.values()})
    assert unique["argmax"] == 1
    assert unique["sample"] > 50


def test_traces_replay_to_the_sample(device):
    from components.evaluation.trajectory import frames

    oracle = Oracle(num_tokens=3, length=6, seed=2, device=device)
    config = SamplerConfig(steps=3, corrector=ProsecoCorrectorConfig(passes=2), **COUNTED)
    rows = [dataclasses.replace(r, trace=True) for r in rows_of(oracle, 10, prompt=2)]
    for sample in run(oracle, config, rows).values():
        trace = [dataclasses.asdict(e) for e in sample.trace]
        assert frames(sample.tokens, trace)[-1].tokens == sample.tokens
        assert sum(e["reason"] == "replace" for e in trace) == sample.edits
        assert all(e["old"] == oracle.mask_id for e in trace if e["reason"] == "reveal")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [9, 300, 5003])
def test_a_position_has_the_same_logits_bit_for_bit_in_any_company(vocab, dtype, monkeypatch):
    """Forwards of one shape, and products with the vocabulary of one shape: neither the lane of a row nor how many
    positions are wanted, before it or behind it, reach its last bits. At the edges of tiles, too. The largest vocabulary is
    multiplied in six parts, of which the last has three words."""
    from components.models import heads
    from components.models.config import ModelConfig
    from components.models.cpu import use_threads
    from components.models.device import Placement
    from components.models.tiles import SIZES
    from components.models.transformer import Transformer
    from components.models.weights import place

    use_threads(1)
    monkeypatch.setattr(heads, "CACHED", 64 * 1000)
    lanes, length, (tile, (large, *_), _) = 24, 25, SIZES["cpu"]
    model = place(Transformer(ModelConfig(), vocab).eval(), Placement("cpu", dtype))
    row = torch.randint(0, vocab, (length,))
    found = []
    with torch.inference_mode():
        for lane in range(lanes):
            batch = torch.randint(0, vocab, (lanes, length))
            batch[lane] = row
            for before, behind in ((0, 0), (0, 5), (tile - 1, 0), (tile - 1, 1), (tile, 0), (2 * tile - 3, 40), (7, 1), (15, 0), (large - 2, 0), (large, 90)):
                others = torch.arange(lanes * length)[torch.arange(lanes * length) // length != lane]
                chosen = others[torch.randperm(len(others))[: before + behind]]
                select = torch.cat([chosen[:before], torch.tensor([lane * length + 7]), chosen[before:]])
                found.append(model(batch, select=select).logits[before])
            assert torch.allclose(found[-1], model(batch).logits[lane, 7], atol={"float32": 1e-5, "bfloat16": 1e-2, "int8": 0.1}[dtype])
        assert model(batch, select=select[:0]).logits.shape == (0, vocab)
    assert all(torch.equal(found[0], other) for other in found)
