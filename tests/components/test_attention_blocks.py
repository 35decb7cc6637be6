"""Networks that see in attention blocks: who sees whom, what they learn by, and a cache that is exact for them."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from components.models.config import ModelConfig
from components.models.cpu import use_threads
from components.models.denoiser import Past
from components.models.layers import Attention, rotate
from components.models.permuted import Permuted
from components.objectives import config as c
from components.samplers import preset
from components.samplers.contract import Extras, Row, Vocabulary
from components.samplers.forward import answer, measure
from components.samplers.needs import exact_cache
from components.samplers.sampler import build_sampler
from components.samplers.session import Session
from components.shards.model import extras_of
from tests import learning
from tests.components.test_windows import LENGTH, MASK, SHAPES, WORDS, network
from tests.decoding import decode

SIZE = 4
"""Of an attention block: 14 positions are three of them and a half."""


# --- who sees whom -----------------------------------------------------------------------------------


def seen_in(said, length=LENGTH):
    """[L, L] bool: does what is ``said`` [rows, L, ...] of the row with position j changed differ from what is of row 0?"""
    return ((said[1:] - said[:1]).abs() > 1e-9).reshape(length, length, -1).any(-1).T


def expected(size, length=LENGTH):
    return torch.tensor([[j // size <= i // size for j in range(length)] for i in range(length)])


def changed_one_by_one(length=LENGTH, words=WORDS):
    """Rows [1 + L, L]: one, and for each position the same with another token there."""
    row = torch.randint(1, words - 1, (length,), generator=torch.Generator().manual_seed(2))
    return torch.stack([row, *(row + (torch.arange(length) == j) for j in range(length))])


@pytest.mark.parametrize("size", [1, 3, SIZE, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_position_sees_its_own_attention_block_and_those_before_it(shape, size):
    model, rows = network(attention_block=size, **SHAPES[shape]).double(), changed_one_by_one()
    given = {"label": torch.ones(len(rows)), "time": torch.full((len(rows),), 0.3)} if shape == "conditioned" else {}
    assert torch.equal(seen_in(model(rows, **given).logits), expected(size)), "where layers learn"
    with torch.no_grad():
        assert torch.equal(seen_in(model(rows, **given).logits), expected(size)), "and where they do not"


def test_a_quality_head_sees_in_attention_blocks_too():
    model = network(attention_block=SIZE, quality_layers=1).double()
    with torch.no_grad():
        said = model(changed_one_by_one(), heads=("quality",))
    assert torch.equal(seen_in(said.heads["quality"]), expected(SIZE))


def test_one_attention_block_is_the_whole_row_and_none_is_full_attention():
    rows = changed_one_by_one()
    with torch.no_grad():
        full = network().double()(rows).logits
        assert torch.equal(network(attention_block=LENGTH).double()(rows).logits, full)
        assert bool(seen_in(full).all())


@pytest.mark.parametrize("two", [True, False])
def test_a_permuted_prediction_sees_what_both_its_order_and_attention_blocks_let_it_see(two):
    length = learning.LENGTH
    model = learning.network(c.MapetConfig(), attention_block=3)
    rank = torch.tensor([0, 3, 1, 0, 5, 2, 4, 6])
    rows = changed_one_by_one(length, learning.VOCAB)
    known = (rank == 0) | (rank < rank[:, None])
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            said = model(rows, permuted=Permuted(rank.expand(len(rows), -1), learning.MASK, two)).logits
        asked = rank > 0
        assert torch.equal(seen_in(said, length)[asked], (known & expected(3, length))[asked])


# --- learning ----------------------------------------------------------------------------------------


def written_out(self, x, rope, visible=None, memory=None):
    """Attention without a mask: each attention block of 3 asks what is up to its end."""
    rows, length, dim = x.shape
    q, k, v = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    q, k, parts = rotate(q, rope), rotate(k, rope), []
    for begin in range(0, length, 3):
        end = min(begin + 3, length)
        scores = q[:, :, begin:end] @ k[:, :, :end].mT / q.shape[-1] ** 0.5
        parts.append(scores.softmax(-1) @ v[:, :, :end])
    return torch.cat(parts, 2).transpose(1, 2).reshape(rows, length, dim)


@pytest.mark.parametrize("config", [c.MdlmConfig(), c.ProsecoConfig(), c.PrismConfig(head_layers=1), c.DslConfig(noise_dim=8)], ids=lambda o: o.name)
def test_losses_and_gradients_are_those_of_attention_that_is_written_out(config, monkeypatch):
    given = learning.batch()

    def learned(**changes):
        model = learning.network(config, **changes)
        terms = learning.terms_of(config, given, model)
        total = sum(term.loss_sum for term in terms.values())
        total.backward()
        return {n: t.loss_sum.detach() for n, t in terms.items()}, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    mine, full = learned(attention_block=3), learned()
    monkeypatch.setattr(Attention, "forward", written_out)
    for found, by_hand, other in zip(mine, learned(), full, strict=True):
        assert found.keys() == by_hand.keys()
        assert all(torch.allclose(found[n], by_hand[n], rtol=1e-9, atol=1e-12) for n in found)
        assert not all(torch.allclose(found[n], other[n], rtol=1e-3) for n in found), "full attention is something else"


# --- a cache that is exact ---------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 4, 8])
def test_a_part_is_told_what_the_whole_row_is_told_whatever_changed_inside_and_behind_it(start):
    """And of a change before it, or of full attention, it is not."""
    tokens = torch.randint(1, WORDS, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    position = torch.arange(LENGTH)

    def agrees(changes, **options):
        model, after = network(**options), torch.where(changes, (tokens + 3) % WORDS, tokens)
        with torch.inference_mode():
            kept = model(tokens, keep=True).kept
            past = Past(kept, torch.arange(3), torch.full((3,), start))
            part = model(after[:, start : start + SIZE], past=past).logits
            return torch.allclose(part, model(after).logits[:, start : start + SIZE], atol=1e-5)

    assert agrees(position >= start, attention_block=SIZE)
    assert not agrees(position >= start)
    if start:
        assert not agrees(position >= start - 1, attention_block=SIZE)


def rows_of(prompts):
    """A row for each length of a prompt."""
    canvas = [3, 5, 1, 7, 2, 6, 8, 4]
    return [
        Row(i, tuple(canvas[:n] + [MASK] * (LENGTH - n)), tuple(p < n for p in range(LENGTH)), seed=11)
        for i, n in enumerate(prompts)
    ]


PROMPTS = (0, 3, 5, 8)
SAMPLERS = [
    ("llada_block", {"steps": 14}),
    ("llada_block", {"steps": 14, "draw": {"temperature": 1.0}}),
    ("fast_dllm", {}),
    ("confidence", {"steps": 12}),
    ("proseco_llada", {"steps": 16, "corrector": {"every": 4, "draft_positions": "all"}}),
    ("proseco_llada", {"steps": 16, "corrector": {"every": 5, "region": "generated", "inner": "sample"}}),
    ("proseco_llada", {"steps": 12, "corrector": {"every": 3, "region": "all"}}),
    ("token_edit", {}),
    ("dsc", {"corrector": {"score": "visible", "every": 3}}),
]


def sampler_of(model, name, length, cache=True, **options):
    blocks = {"length": length, "cache": cache, "early_end": False}
    return build_sampler(preset(name, blocks=blocks, **options), Vocabulary(MASK), extras_of(model))


@pytest.mark.parametrize(
    ("name", "options", "length"),
    [(*SAMPLERS[i], length) for i in range(len(SAMPLERS)) for length in ((SIZE, 2, 3, 6, 8) if i in (0, 5) else (SIZE, 6))],
)
def test_rows_with_a_cache_are_those_without_and_each_call_says_what_the_whole_row_is_told(name, options, length):
    """Blocks as long as attention blocks, shorter, longer, and across their ends. Places of their own keep masks apart, which in
    a row without a prompt are all told the same but for rounding."""
    use_threads(1)
    model = network(attention_block=SIZE, num_positions=LENGTH)
    rows, narrow, whole = rows_of(PROMPTS), 0, 0
    session = Session(model, sampler_of(model, name, length, **options), LENGTH, num_lanes=3)
    made, waiting = {}, list(rows)
    while waiting or not session.idle:
        while waiting and session.admit(waiting[0].id, waiting[0]):
            waiting.pop(0)
        with torch.inference_mode():
            query = session.ask()
            said = answer(model, query, measure(query), session.batching, cache=session.cache)
            exact = model(query.tokens).logits.flatten(0, 1)[said.select]
        assert torch.allclose(said.logits, exact, atol=1e-5)
        narrow += int((query.window.narrow & query.active).sum())
        whole += int((~query.window.narrow & query.active).sum())
        made |= session.tell(query, said)
    plain = decode(model, sampler_of(model, name, length, cache=False, **options), rows, lanes=3)
    assert {i: (s.tokens, s.calls, s.edits) for i, s in made.items()} == {i: (s.tokens, s.calls, s.edits) for i, s in plain.items()}
    assert narrow > 0
    assert sum(s.call_positions for s in made.values()) < sum(s.calls for s in made.values())
    assert whole > 0


def test_of_full_attention_rows_with_a_cache_are_others():
    model, rows = network(num_positions=LENGTH), rows_of(PROMPTS)
    with_one, without = (decode(model, sampler_of(model, "llada_block", SIZE, cache, steps=14), rows) for cache in (True, False))
    assert [with_one[r.id].tokens for r in rows] != [without[r.id].tokens for r in rows]


def test_a_row_is_the_same_alone_and_in_a_crowd():
    use_threads(1)
    model = network(attention_block=SIZE, num_positions=LENGTH)
    sampler = sampler_of(model, "proseco_llada", SIZE, steps=16, corrector={"every": 5})
    rows = rows_of((*PROMPTS, 1, 2, 0, 6))
    crowd = decode(model, sampler, rows, lanes=5)
    for row in rows:
        assert decode(model, sampler, [row], lanes=5)[row.id] == crowd[row.id]


@pytest.mark.parametrize(
    ("length", "size", "row", "positions"),
    [(4, 4, 16, 4), (8, 4, 16, 8), (2, 4, 16, 4), (6, 4, 24, 8), (3, 4, 24, 8), (5, 1, 24, 5), (4, 4, 14, 6), (8, 8, 4, 4)],
)
def test_a_window_is_whole_attention_blocks_and_no_more_than_hold_a_block(length, size, row, positions):
    """A row that is no whole number of them has one that is cut at its end, which makes all windows longer by as much."""
    parts = build_sampler(preset("llada_block", blocks={"length": length, "cache": True}), Vocabulary(MASK), Extras(attention_block=size)).parts
    assert parts.blocks.size(row) == positions


def test_blocks_are_counted_from_the_attention_block_of_the_first_position_that_is_written():
    def numbers(size, prompt):
        sampler = build_sampler(preset("llada_block", blocks={"length": 4}), Vocabulary(MASK), Extras(attention_block=size))
        return sampler.parts.blocks.number(torch.arange(12)[None] < prompt)[0].tolist()

    assert numbers(0, 6) == [0] * 10 + [1] * 2
    assert numbers(4, 6) == [0] * 8 + [1] * 4
    assert numbers(2, 7) == [0] * 10 + [1] * 2
    assert numbers(4, 0) == [0] * 4 + [1] * 4 + [2] * 4


def test_a_row_of_a_few_calls_a_block_is_computed_in_a_small_part():
    """16 positions in 4 blocks of 4 calls: the first of each is whole, and three are a quarter."""
    model = network(attention_block=SIZE)
    row = Row(0, (MASK,) * 16, (False,) * 16, seed=1)
    made = decode(model, sampler_of(model, "llada_block", SIZE, steps=16), [row])[0]
    assert (made.calls, made.call_positions) == (16, 4 + 12 / 4)
    inside = decode(model, sampler_of(model, "llada_block", 2, steps=16), [row])[0]
    assert (inside.calls, inside.call_positions) == (16, 4 + 12 / 4), "two blocks in an attention block: no call between is whole"
    row = Row(0, (MASK,) * 14, (False,) * 14, seed=1)
    cut = decode(model, sampler_of(model, "llada_block", SIZE, steps=14), [row])[0]
    assert (cut.calls, cut.call_positions) == (11, pytest.approx(3 + 8 * 6 / 14)), "the last two are in one window, which ends with the row"


def test_only_what_depends_on_tokens_before_alone_is_kept_exactly():
    cached = preset("llada_block", blocks={"cache": True})

    def exact(config=cached, **model):
        return exact_cache(config, asdict(ModelConfig(**model)))

    assert exact(attention_block=4) is True
    assert exact() is False
    assert exact(attention_block=4, time_conditioning=True) is False, "keys and values change with the time"
    assert exact(preset("llada_block"), attention_block=4) is None
