"""Kernels of our own against the plain forms that define them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from components.diffusion import categorical, noise
from components.diffusion.noise import Stream
from components.models.config import ModelConfig
from components.models.device import Placement
from components.models.judging import Judge, judge_features
from components.models.transformer import Transformer
from components.models.weights import place
from tests.gpu.outcome import Outcome, tried

PART = "kernels"
TOLERANCE = 1e-5
"""Of log-probabilities and logits, in float32."""


def outcomes(device: str) -> Iterator[Outcome]:
    for size in (1, 7, 2048, 2049, 50258):
        yield tried(PART, f"opinions of {size} tokens", partial(opinions_are_those_of_the_cpu, size, device))
        for dtype in (torch.float32, torch.bfloat16):
            yield tried(PART, f"losses over {size} tokens, {dtype}", partial(losses_are_those_of_the_cpu, size, dtype, device))
    yield tried(PART, "uniforms", partial(uniforms_are_those_of_the_cpu, device))
    for dtype in ("float32", "bfloat16"):
        yield tried(PART, f"rows in a crowd, {dtype}", partial(rows_do_not_see_their_company, dtype, device))


def opinions_are_those_of_the_cpu(size: int, device: str) -> str:
    """The same token, the first of several that tie, and its log-probability."""
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(33, size, generator=generator) * 5
    logits[:9] = logits[:9].round()
    logits[9:12, 0] = float("-inf") if size > 1 else 0.0
    own = torch.randint(0, size, (33,), generator=generator)
    found, expected = categorical.opinion(logits.to(device), own.to(device)), categorical.opinion(logits, own)
    assert torch.equal(found[0].cpu(), expected[0]), "another token is the best"
    pairs = [(a.cpu(), b) for a, b in zip(found[1:], expected[1:], strict=True)]
    assert all(torch.equal(a.isinf(), b.isinf()) for a, b in pairs)
    worst = max(float((a - b)[b.isfinite()].abs().max()) for a, b in pairs)
    assert worst < TOLERANCE, f"a log-probability is off by {worst:.3g}"
    return f"largest difference {worst:.3g}"


def losses_are_those_of_the_cpu(size: int, dtype: torch.dtype, device: str) -> str:
    """Of rounded features, whose logits are the same on both: losses, best tokens and gradients."""
    if size < 2:
        return "one token alone has no loss"
    generator = torch.Generator().manual_seed(size)
    x, weight = (torch.randn(n, 16, generator=generator).round() for n in (40, size))
    clean, share = torch.randint(1, size, (30,), generator=generator), torch.rand(30, generator=generator)
    plainly = torch.rand(30, generator=generator) < 0.5

    def judged(where: str) -> tuple[Tensor, ...]:
        given = [t.to(where, dtype).requires_grad_() for t in (x, weight)]
        judge = Judge(*(t.to(where) for t in (clean, share)), never=0, plainly=plainly.to(where), tokens=True)
        loss, nll, tokens = judge_features(*given, judge)
        loss.backward()
        return tuple(t.detach().cpu().float() for t in (loss, nll, tokens, *(g.grad for g in given)))

    found, expected = judged(device), judged("cpu")
    assert torch.equal(found[2], expected[2]), "another token is the best"
    worst = max(float((a - b).norm() / (1e-3 + b.norm())) for a, b in zip(found, expected, strict=True))
    assert worst < (1e-5 if dtype == torch.float32 else 2e-2), f"off by {worst:.3g}"
    return f"largest difference {worst:.3g}"


def uniforms_are_those_of_the_cpu(device: str) -> str:
    """Bit for bit, of streams and lengths of all sizes."""
    keys = noise.row_keys(-5, torch.tensor([0, 1, 2**40, 77]))
    tick = torch.tensor([1, 2**31 + 5, 3, 4096])
    for length, stream in ((1, Stream.REVEAL), (16, Stream.TOKEN), (2049, 2**32 - 1)):
        found = noise.uniform(keys.to(device), tick.to(device), 3, length, stream)
        assert torch.equal(found.cpu(), noise.uniform(keys, tick, 3, length, stream)), f"other bits at {length} positions"
    return "the same bits"


@torch.inference_mode()
def rows_do_not_see_their_company(dtype: str, device: str, vocab: int = 5003, rows: int = 6, length: int = 300) -> str:
    """Features and logits of wanted positions, whatever else is in the forward or wanted: at the edges of tiles, too."""
    torch.manual_seed(0)
    model = place(Transformer(ModelConfig("micro"), vocab).eval(), Placement(device, dtype))  # type: ignore[arg-type]
    tokens = torch.randint(0, vocab, (2, rows, length), device=device)
    tokens[1, 0] = tokens[0, 0]
    assert model.tiles is not None
    tile = model.tiles.usual
    everything = model(tokens[0], select=torch.arange(rows * length, device=device)).logits
    for count in (1, tile - 1, tile, min(tile + 1, rows * length)):
        some = torch.arange(count, device=device)
        assert torch.equal(model(tokens[0], select=some).logits, everything[:count]), f"other bits where {count} are wanted"
    own = torch.arange(length, device=device)
    assert torch.equal(model(tokens[1], select=own).logits, everything[:length]), "other bits in other company"
    return "the same bits"
