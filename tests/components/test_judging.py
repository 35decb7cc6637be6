"""Losses taken a chunk at a time, and layers that keep less: against the plain ones, in values, gradients and memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from components.diffusion.categorical import suppress
from components.models import judging, lean
from components.models.config import ModelConfig
from components.models.judging import Judge, judge_features, judge_logits
from components.models.layers import Attention, Gated, Norm, rotary_table
from components.models.segments import blocks_seen
from components.models.transformer import Transformer

V, D, MASK = 11, 6, 3


def features(number, dtype=torch.float64):
    torch.manual_seed(number)
    return torch.randn(number, D, dtype=dtype).requires_grad_(), torch.randn(V, D, dtype=dtype).requires_grad_()


def judge_of(number, judged, **given):
    clean = torch.tensor([v for v in range(V) if v != MASK])[torch.randint(V - 1, (judged,))]
    return Judge(clean, torch.rand(judged, dtype=torch.float64) * 3, MASK, **given)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 4 positions, looked at 3 at a time, with 5 tokens' weights added to together; memory that nobody wrote is no number."""
    monkeypatch.setattr(torch, "empty_like", lambda like, **given: torch.full_like(like, torch.nan, **given))
    monkeypatch.setattr(judging, "chunk_rows", lambda device, vocab_size: 4)
    monkeypatch.setattr(judging, "SOME", 3)
    monkeypatch.setattr(judging, "CACHED", 4 * V - 1)
    monkeypatch.setattr(judging, "WORDS", 5)


@pytest.mark.parametrize("plainly", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("number", "judged"), [(0, 0), (1, 1), (3, 0), (4, 4), (5, 4), (8, 3), (9, 9), (13, 5)])
def test_chunks_come_to_the_loss_the_gradient_and_the_tokens_of_all_logits(number, judged, sampled, plainly, small_chunks):
    x, weight = features(number)
    u = torch.rand(number, dtype=torch.float64) if sampled else None
    judge = judge_of(number, judged, tokens=True, u=u, plainly=torch.rand(judged) < 0.5 if plainly else None)
    expected = judge_logits(suppress(x @ weight.T, (MASK,)), judge)
    loss, nll, tokens = judge_features(x, weight, judge)
    assert torch.allclose(loss, expected.loss_sum)
    assert torch.allclose(nll, expected.nll)
    assert torch.equal(tokens, expected.tokens)
    assert MASK not in tokens
    # As a part of a larger loss, whose gradient is not 1.
    for mine, theirs in zip(
        torch.autograd.grad(loss * 0.3, (x, weight)), torch.autograd.grad(expected.loss_sum * 0.3, (x, weight)), strict=True
    ):
        assert torch.allclose(mine, theirs)
    assert not nll.requires_grad


def test_a_loss_is_what_it_says_by_hand():
    x, weight = features(2)
    judge = Judge(torch.tensor([0, 5]), torch.tensor([2.0, 0.5]), MASK, plainly=torch.tensor([False, True]))
    loss, nll, tokens = judge_features(x, weight, judge)
    logits = (x @ weight.T).detach()
    total = [sum(float(logits[i, v].exp()) for v in range(V) if v != MASK) for i in range(2)]
    p = [float(logits[0, 0].exp()) / total[0], float(logits[1, 5].exp()) / total[1]]
    assert float(loss.detach()) == pytest.approx(2 * float(nll[0]) - 0.5 * p[1])
    assert float(torch.exp(-nll[0])) == pytest.approx(p[0])
    assert len(tokens) == 0


def test_a_token_of_hardly_any_probability_has_a_finite_loss():
    x, weight = torch.tensor([[200.0]], requires_grad=True), torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    loss, _, _ = judge_features(x, weight, Judge(torch.tensor([1]), torch.ones(1), 2))
    assert float(loss.detach()) == pytest.approx(400)


def test_a_second_backward_fails_instead_of_scaling_twice():
    x, weight = features(3)
    loss, _, _ = judge_features(x, weight, judge_of(3, 3))
    loss.backward(retain_graph=True)
    with pytest.raises(AttributeError):
        loss.backward()


def test_without_a_backward_to_come_no_gradient_is_made(small_chunks):
    x, weight = features(5)
    judge = judge_of(5, 5)
    with torch.no_grad():
        loss, _, _ = judge_features(x, weight, judge)
    assert not loss.requires_grad
    frozen, _, _ = judge_features(x, weight.detach(), judge)
    (grad,) = torch.autograd.grad(frozen, x)
    assert grad.abs().sum() > 0


def test_no_logits_are_kept_for_the_backward():
    """Of 64 positions and 500 tokens not even half of the logits, in any saved tensor or beside it."""
    model = Transformer(ModelConfig(dim=8, depth=1, heads=2), 500)
    tokens, kept = torch.randint(500, (2, 32)), []
    judge = Judge(tokens.flatten(), torch.ones(64), 0, tokens=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = model(tokens, select=torch.arange(64), judge=judge).loss_sum
    assert kept
    assert max(kept) < 64 * 500 / 2
    grads = [v for v in vars(loss.grad_fn).values() if isinstance(v, torch.Tensor)]
    assert sorted(g.numel() for g in grads) == [64 * 8, 500 * 8]


# --- layers ----------------------------------------------------------------------------------------


def both(layer, x, monkeypatch, *given):
    """(output, gradients of input and weights) of a layer that learns, and of its plain form."""
    found = []
    for learns in (lean.learns, lambda _: False):
        monkeypatch.setattr(lean, "learns", learns)
        wanted = [x, *(p for name, p in layer.named_parameters() if name != "out.weight")]  # which is the block's to use
        out = layer(x, *given)
        grads = torch.autograd.grad(out, wanted, torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape))
        found.append([out, *grads])
    return zip(*found, strict=True)


def layers():
    config = ModelConfig(dim=16, depth=1, heads=2).resolved()
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    yield "norm", Norm(16, eps=1e-6).double(), x, ()
    yield "gated", Gated(8, 4, bias=False).double(), x, ()
    rope, seen = rotary_table(torch.arange(5), config, x), torch.rand(3, 5, 5) < 0.5
    yield "attention", Attention(config).double(), x, (rope,)
    yield "attention that sees less", Attention(config).double(), x, (rope, seen | torch.eye(5, dtype=torch.bool))
    yield "attention in blocks", Attention(config).double(), x, (rope, blocks_seen(torch.arange(5), 5, 2))


@pytest.mark.parametrize("name", ["norm", "gated", "attention", "attention that sees less", "attention in blocks"])
def test_a_layer_that_learns_is_the_plain_one(name, monkeypatch):
    torch.manual_seed(0)
    layer, x, given = next(rest for found, *rest in layers() if found == name)
    monkeypatch.setattr(lean, "ROWS", 4)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    for mine, plain in both(layer, x.requires_grad_(), monkeypatch, *given):
        assert torch.allclose(mine, plain)
        assert mine.abs().sum() > 0


def test_a_block_keeps_less_than_the_plain_one(monkeypatch):
    model = Transformer(ModelConfig(dim=16, depth=2, heads=2), 9)

    def kept():
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
        ):
            held = model(torch.randint(9, (4, 32))).logits
        assert held.requires_grad
        return sum(sizes.values())

    mine = kept()
    monkeypatch.setattr(lean, "learns", lambda _: False)
    assert mine < 0.75 * kept()


def test_bfloat16_is_as_near_to_float32_as_the_plain_layers_are(monkeypatch):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(dim=32, depth=2, heads=2), 50)
    tokens = torch.randint(1, 50, (4, 16))
    judge = Judge(tokens.flatten(), torch.ones(64), 0)

    def gradient(low, learns, judged):
        monkeypatch.setattr(lean, "learns", learns)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            if judged:
                loss = model(tokens, select=torch.arange(64), judge=judge).loss_sum
            else:
                loss = F.cross_entropy(suppress(model(tokens).logits.flatten(0, 1), (0,)), tokens.flatten(), reduction="sum")
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    learns = lean.learns
    exact, mine, plain = gradient(False, learns, True), gradient(True, learns, True), gradient(True, lambda _: False, False)
    assert float((mine - exact).norm()) < 1.5 * float((plain - exact).norm()) < 0.05 * float(exact.norm())
