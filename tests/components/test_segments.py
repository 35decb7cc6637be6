"""Rows of several lengths in one call are what each is alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from components.models import layers
from components.models.config import ModelConfig
from components.models.segments import Segments, fits_kernel, segments_of
from components.models.transformer import Transformer
from components.objectives import config as c
from tests.learning import CONFIGS, LENGTH, VOCAB, alone, batch, cut, gradients, network

SIZES = [8, 8, 5, 5, 3, 7]
OBJECTIVES = [config for config in CONFIGS if not config.rewarded]


@pytest.mark.parametrize("attention_block", [0, 2])
@pytest.mark.parametrize("config", OBJECTIVES, ids=str)
def test_gradients_are_those_of_rows_by_themselves(config, attention_block):
    """Whatever a corrector, a head or an order of prediction reads of a row: nothing comes from another one, nor from behind its end."""
    timed = not isinstance(config, c.DslConfig)  # which tells no time
    model, rows = network(config, attention_block=attention_block, time_conditioning=timed), cut(batch(rows=6, prompt=1), SIZES)
    for name, parameter in model.named_parameters():
        if "modulation" in name:  # which starts at zero, so that no time would matter
            torch.nn.init.normal_(parameter, std=0.1)
    together, each = gradients(config, [rows], model), gradients(config, list(alone(rows)), model)
    assert any(float(slope.abs().max()) > 1e-3 for slope in together.values())
    assert all(torch.allclose(together[name], each[name], rtol=0, atol=1e-6) for name in each)


@pytest.mark.parametrize("config", [c.MdlmConfig(), c.ProsecoConfig(), c.PrismConfig(num_fills=2), c.MapetConfig()], ids=str)
def test_tokens_behind_a_rows_end_change_nothing(config):
    model, rows = network(config), cut(batch(rows=6), SIZES)
    behind = torch.arange(LENGTH) >= rows.sizes[:, None]
    other = dataclasses.replace(rows, tokens=torch.where(behind, (rows.tokens + 1) % VOCAB, rows.tokens))
    one, two = (gradients(config, [given], model) for given in (rows, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "changes", [{}, {"shift_logits": True}, {"time_conditioning": True, "num_classes": 3}, {"num_positions": LENGTH}], ids=str
)
def test_whole_outputs_are_those_of_each_row_and_zero_behind_its_end(changes):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(dim=16, depth=2, heads=2, quality_layers=1, **changes), VOCAB).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens, sizes = batch(rows=6).tokens, torch.tensor(SIZES)
    time, label = torch.linspace(0.1, 0.9, 6).double(), torch.tensor([0.0, 1, 2, torch.nan, 0, 1])
    found = model(tokens, sizes=sizes, time=time, label=label, heads=("quality",))
    for row, size in enumerate(SIZES):
        only = slice(row, row + 1)
        one = model(tokens[only, :size], time=time[only], label=label[only], heads=("quality",))
        assert torch.allclose(found.logits[row, :size], one.logits[0], atol=1e-12)
        assert torch.allclose(found.heads["quality"][row, :size], one.heads["quality"][0], atol=1e-12)
        assert not found.logits[row, size:].any()
        assert not found.heads["quality"][row, size:].any()


def test_attention_takes_rows_of_one_size_that_stand_together_at_once(monkeypatch):
    shapes = []
    right = layers.Attention.attended
    monkeypatch.setattr(layers.Attention, "attended", lambda self, x, *given: shapes.append(x.shape[:2]) or right(self, x, *given))
    model = network(c.MdlmConfig())
    with torch.no_grad():
        model(batch(rows=6).tokens, sizes=torch.tensor(SIZES))
    assert shapes == [(2, 8), (2, 5), (1, 3), (1, 7)] * model.config.depth


def test_one_kernel_is_told_where_rows_end(monkeypatch):
    """It is a GPU's: here it stands for attention of each row, as its reference describes it."""

    def by_row(q, k, v, ends, ends_of_keys, most, most_keys):
        assert q.dtype == k.dtype == v.dtype
        assert ends.dtype == torch.int32
        assert (most, most_keys) == (8, 8)
        assert ends is ends_of_keys
        parts = []
        for begin, end in zip(ends.tolist(), ends.tolist()[1:], strict=False):
            row = [x[begin:end].transpose(0, 1) for x in (q, k, v)]
            parts.append(torch.nn.functional.scaled_dot_product_attention(*row).transpose(0, 1))
        return torch.cat(parts)

    def on_a_gpu(sizes, shown, config):
        return dataclasses.replace(segments_of(sizes, shown, config), most=8)

    model, tokens, sizes = network(c.MdlmConfig()), batch(rows=6).tokens, torch.tensor(SIZES)
    with torch.no_grad():
        expected = model(tokens, sizes=sizes).logits
        monkeypatch.setattr("components.models.segments.varlen_attn", by_row)
        monkeypatch.setattr("components.models.transformer.segments_of", on_a_gpu)
        found = model(tokens, sizes=sizes).logits
    assert torch.allclose(found, expected, atol=1e-12)


def test_the_kernel_is_called_as_torch_has_it():
    """Forward and backward, on tensors without values, since it needs a GPU."""
    config = ModelConfig(dim=16, depth=2, heads=2).resolved()
    segments = segments_of(torch.tensor(SIZES), torch.ones(6, LENGTH), config)
    with FakeTensorMode() as fake, torch.autocast("cpu", torch.bfloat16):
        block = layers.Block(config, conditioned=False)
        where = {name: fake.from_tensor(getattr(segments, name)) for name in ("row", "position", "ends")}
        x = torch.empty(1, sum(SIZES), 16, requires_grad=True)
        rope = (torch.empty(sum(SIZES), 4), torch.empty(sum(SIZES), 4))
        after = block(x, rope, None, dataclasses.replace(segments, most=8, **where))
        after.float().sum().backward()
    assert after.shape == x.grad.shape == x.shape


@pytest.mark.parametrize(("dim", "block", "fits"), [(16, 0, True), (512, 0, True), (12, 0, False), (1024, 0, False), (16, 2, False)])
def test_what_the_kernel_can_not_take_is_known(dim, block, fits):
    assert fits_kernel(ModelConfig(dim=dim, depth=1, heads=2, attention_block=block).resolved()) is fits


def test_compiled_blocks_are_called_but_for_memory_and_rows_that_are_taken_one_by_one(monkeypatch):
    model, calls = network(c.MdlmConfig()), []
    model.compiled = True
    for block in model.blocks:
        block._compiled_call_impl = lambda *given, block=block: calls.append(1) or block.forward(*given)
    tokens, sizes = batch(rows=6).tokens, torch.tensor(SIZES)

    def counted(**given):
        calls.clear()
        with torch.no_grad():
            model(tokens, **given)
        return len(calls)

    assert (counted(), counted(keep=True), counted(sizes=sizes)) == (model.config.depth, 0, 0)
    monkeypatch.setattr(Segments, "attend_in_one", lambda self, v, q, k: v)
    monkeypatch.setattr("components.models.transformer.segments_of", lambda *given: dataclasses.replace(segments_of(*given), most=8))
    assert counted(sizes=sizes) == model.config.depth


def test_what_is_packed_comes_back():
    rows = torch.arange(1.0, 1 + 6 * LENGTH).view(6, LENGTH)
    segments = segments_of(torch.tensor(SIZES), rows, ModelConfig().resolved())
    assert isinstance(segments, Segments)
    assert segments.packed(rows).shape == (1, sum(SIZES))
    behind = torch.arange(LENGTH) >= torch.tensor(SIZES)[:, None]
    assert torch.equal(segments.spread(segments.packed(rows)), rows.masked_fill(behind, 0))
    flat = (~behind).flatten().nonzero()[:, 0]
    assert segments.places(flat).tolist() == list(range(sum(SIZES)))
