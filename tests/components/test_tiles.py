"""Positions that nobody asks about: not computed where each is computed by itself, and no bit is another for it."""

from __future__ import annotations

import pytest
import torch

from components.models.config import ModelConfig
from components.models.cpu import use_threads
from components.models.device import Placement
from components.models.judging import Judge
from components.models.layers import Block
from components.models.tiles import SIZES, Tiles
from components.models.transformer import Transformer
from components.models.weights import place

ROWS, LENGTH, WORDS = 3, 8, 11
CONFIGS = {
    "plain": {},
    "on a class": {"num_classes": 3},
    "on the time": {"time_conditioning": True},
    "in blocks": {"attention_block": 3},
    "by adapters": {"adapter_rank": 2},
}


def network(name="plain", **more):
    torch.manual_seed(1)
    model = Transformer(ModelConfig(dim=16, depth=2, heads=2, **CONFIGS[name], **more), WORDS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 4)
    return model.double()


def given():
    torch.manual_seed(2)
    return {
        "tokens": torch.randint(0, WORDS, (ROWS, LENGTH)),
        "select": torch.randperm(ROWS * LENGTH)[:9].sort().values,
        "label": torch.tensor([0.0, torch.nan, 2.0]),
        "time": torch.tensor([0.1, 0.5, 0.9]),
    }


def whole(monkeypatch):
    """Have the last block computed at all positions."""
    monkeypatch.setattr(Transformer, "narrows", lambda self, x: False)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_at_wanted_positions_are_those_of_whole_rows(name, monkeypatch):
    model = network(name).eval()
    with torch.no_grad():
        narrow, kept = model(**given()).logits, model(**given(), keep=True).kept
        whole(monkeypatch)
        wide = model(**given(), keep=True)
    assert torch.allclose(narrow, wide.logits, atol=1e-12)
    assert torch.equal(kept, wide.kept)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_learned_from_wanted_positions_is_the_same(name, monkeypatch):
    judge = Judge(torch.arange(1, 10), torch.linspace(0.5, 2, 9), never=0)

    def learned():
        model = network(name).train()
        loss = model(**given(), judge=judge).loss_sum
        return [loss.double(), *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)]

    narrow = learned()
    whole(monkeypatch)
    for mine, plain in zip(narrow, learned(), strict=True):
        assert (mine is None) == (plain is None)
        assert mine is None or torch.allclose(mine, plain.to(mine), rtol=1e-5, atol=1e-6)


def widths(monkeypatch):
    """How many positions each second half of a block is computed at."""
    seen, write = [], Block.write
    monkeypatch.setattr(Block, "write", lambda self, x, *rest: seen.append(x.numel() // 16) or write(self, x, *rest))
    return seen


def test_the_last_block_writes_at_wanted_positions_alone(monkeypatch):
    seen, model = widths(monkeypatch), network().eval()
    with torch.no_grad():
        model(**given())
        model.tiles = Tiles(4)
        model(**given())
    assert seen == [24, 9, 24, 4, 4, 4]


@pytest.mark.parametrize("asked", ["everything", "a head", "shifted logits", "activations made again"])
def test_where_more_than_logits_at_some_positions_is_needed_rows_are_whole(asked, monkeypatch):
    seen = widths(monkeypatch)
    model = network(quality_layers=1 if asked == "a head" else -1, shift_logits=asked == "shifted logits")
    model.activation_checkpointing = asked == "activations made again"
    said = model(**{n: v for n, v in given().items() if asked != "everything" or n != "select"}, heads=("quality",) * (asked == "a head"))
    assert set(seen) == {24}
    assert said.logits.shape[-1] == WORDS


def test_nothing_wanted_is_nothing_said():
    for model in (network().train(), place(network().float().eval(), Placement())):
        said = model(**given() | {"select": torch.arange(0)}).logits
        assert said.shape == (0, WORDS)


# --- tiles -------------------------------------------------------------------------------------------


def by_number(wrong):
    """Doubles rows; in tiles of certain sizes with a last bit that is another."""
    taken = []

    def compute(rows, sizes):
        taken.append(list(sizes))
        (x,) = rows
        return torch.cat([2 * part * (1 + 1e-6 * (len(part) in wrong)) for part in x.split(sizes)])

    return compute, taken


def test_the_largest_tiles_that_change_no_bit_are_taken_first():
    tiles, x = Tiles(4, (16, 8), (1, 2)), torch.arange(1.0, 28)[:, None]
    compute, taken = by_number(wrong=())
    assert torch.equal(tiles.computed("twice", compute, [x]), 2 * x)
    assert taken == [[16], [4] * 4, [8], [4, 4], [16, 8, 4]]
    taken.clear()
    tiles.computed("twice", compute, [x[:6]])
    assert taken == [[2, 2], [4], [4, 2]]
    tiles.computed("twice", compute, [x[:9]])
    assert taken[3:] == [[1] * 4, [4], [8, 1]]
    for number, sizes in ((0, [0]), (1, [1]), (2, [2]), (3, [4]), (7, [4, 4]), (8, [8]), (16, [16]), (32, [16, 16])):
        taken.clear()
        tiles.computed("twice", compute, [torch.ones(number, 1)])
        assert taken == [sizes], "what is known is tried no more"


def test_tiles_that_change_a_bit_are_never_taken():
    tiles, x = Tiles(4, (16, 8), (1, 2)), torch.rand(28, 1) + 1
    compute, taken = by_number(wrong={16})
    assert torch.equal(tiles.computed("twice", compute, [x]), 2 * x)
    assert taken[-1] == [8, 8, 8, 4]
    compute, taken = by_number(wrong={1, 2})
    assert torch.equal(tiles.computed("small", compute, [x[:5]]), 2 * x[:5])
    assert taken == [[1] * 4, [4], [2, 2], [4], [4, 4]]
    compute, taken = by_number(wrong=())
    tiles.computed("other", compute, [x])
    assert taken[-1] == [16, 8, 4], "of another product nothing was known"


def test_tiles_are_tried_with_rows_of_their_own():
    """Whatever is computed first: one row would see one place of a tile, and what is no number would spoil it for ever."""
    tiles, tried = Tiles(4, (8,), (1, 2)), []

    def compute(rows, sizes):
        tried.append(rows)
        return torch.cat([rows[0], rows[1][:, None].to(rows[0])], 1)

    first = [torch.full((1, 3), torch.nan), torch.ones(1, dtype=torch.int64)]
    tiles.computed("x", compute, first)
    assert tiles.equal == {("x", 1, torch.get_num_threads()): True}
    features, numbers = tried[0]
    assert len(features.unique(dim=0)) == 4
    assert bool(features.isfinite().all())
    assert numbers.tolist() == [0] * 4
    assert [len(rows[0]) for rows in tried] == [4, 4, 1]


def test_tiles_are_tried_anew_with_other_threads():
    tiles, x, (compute, taken) = Tiles(4, (8,)), torch.ones(8, 1), by_number(wrong=())
    try:
        for threads, tries in ((1, 3), (1, 1), (2, 3)):
            use_threads(threads)
            taken.clear()
            tiles.computed("twice", compute, [x])
            assert len(taken) == tries
    finally:
        use_threads(1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["plain", "on the time"])
def test_a_position_is_the_same_however_many_are_wanted(name, dtype):
    """At the edges of all tiles; those that a placed network takes."""
    use_threads(1)
    model = place(network(name).float().eval(), Placement("cpu", dtype))
    rows = 300 // LENGTH + 1
    tokens, time = torch.randint(0, WORDS, (rows, LENGTH)), torch.linspace(0, 1, rows)
    with torch.inference_mode():
        usual, larger, smaller = SIZES["cpu"]
        everything = model(tokens, select=torch.arange(rows * LENGTH), time=time).logits
        for edge in (usual, *larger, *smaller):
            for number in (edge - 1, edge, edge + 1):
                found = model(tokens, select=torch.arange(number), time=time).logits
                assert torch.equal(found, everything[:number])
    assert {name for name, _, _ in model.tiles.equal} == {"head", "last block"}


def test_the_same_holds_for_a_network_that_has_no_equal_tiles(monkeypatch):
    monkeypatch.setattr(Tiles, "may_be", lambda self, size, *_: size == self.usual)
    seen = widths(monkeypatch)
    model = place(network().float().eval(), Placement())
    with torch.inference_mode():
        model(torch.zeros(40, LENGTH, dtype=torch.int64), select=torch.arange(320))
    assert seen == [320, *[32] * 10]
