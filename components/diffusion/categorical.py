"""Exact draws of tokens from logits, one uniform each.

Whether a position is unmasked is decided elsewhere, before *what* it becomes: a joint Gumbel race of
"stay masked" against 50,000 tokens silently truncates the tail in float32 (arXiv 2409.02908). Here
the cumulative sum runs in float64 and one uniform picks the token, so a class of probability 1e-6 is
drawn one time in a million.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, library

from components.diffusion.config import DrawConfig
from components.diffusion.gpu import makes_kernels

BLOCK = 64
"""Neighbours that are looked at as one, before it is known in which of them a draw lies."""
BINNED = 2048
"""Tokens from which on a nucleus on a CPU is found by bins, a row at a time, and not by a sort."""
SOME, NUMBERS = 32, 1 << 17
"""Positions that are looked at together at least, and as many more as have no more numbers."""


def room(like: Tensor, rows: int, vocab_size: int, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for logits [N, V]. On a GPU rows begin where its fast products of matrices can write them."""
    stride = -(-vocab_size // 8) * 8 if like.is_cuda else vocab_size
    return like.new_empty(rows, stride, dtype=dtype)[:, :vocab_size]


def suppress(logits: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Logits in float32 (float64 stays) with the given ids made impossible. The input is not changed."""
    return suppress_(logits.clone() if logits.dtype in (torch.float32, torch.float64) else logits.float(), ids)


def suppress_(logits: Tensor, ids: tuple[int, ...]) -> Tensor:
    """The same logits, in which the given ids are made impossible."""
    for token_id in ids:
        logits[..., token_id] = float("-inf")
    return logits


@library.custom_op("proseco::descending", mutates_args=())
def descending(values: Tensor) -> Tensor:
    """Values [..., V] from the largest to the least: on a CPU by numpy, which sorts them in a fifth of torch's time."""
    if values.device.type == "cpu":
        return torch.from_numpy(numpy.sort(values.numpy(), axis=-1)).flip(-1)
    return values.sort(dim=-1, descending=True).values


@descending.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)


@library.custom_op("proseco::nucleus", mutates_args=())
def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """What ``truncate`` says of ``top_p``, row by row on a CPU: only values near the border are sorted."""
    rows = probabilities.reshape(-1, probabilities.shape[-1]).contiguous().numpy()
    kept = numpy.zeros_like(rows)
    for row, out in zip(rows, kept, strict=True):
        fill_nucleus(row, top_p, out)
    return torch.from_numpy(kept).view(probabilities.shape)


@nucleus.register_fake
def _(probabilities: Tensor, top_p: float) -> Tensor:
    return probabilities.new_empty(probabilities.shape)


def fill_nucleus(row: NDArray[Any], top_p: float, out: NDArray[Any]) -> None:
    """Write the nucleus of probabilities [V] into zeros.

    All tokens that have less than a V-th of what may be left out are left out, whatever the others have. Numbers that are not
    negative have the order of their bits, so the first 16 of them sort the rest into bins, and the mass above each bin tells in
    which one the border is.
    """
    total = row.sum(dtype=numpy.float64)
    target, least = top_p * total, 0.999 * (1 - top_p) * total / len(row)
    ids = numpy.flatnonzero(~(row < least))  # what is no number, too
    large = row[ids]
    number = large.view(f"u{row.itemsize}") >> (8 * row.itemsize - 16)
    mass = numpy.bincount(number, weights=large)
    from_above = mass[::-1].cumsum()
    bins = min(int(numpy.searchsorted(from_above, target)), len(mass) - 1)
    border = len(mass) - 1 - bins
    inside = numpy.flatnonzero(number == border)
    inside = inside[numpy.argsort(-large[inside], kind="stable")]
    reached = (from_above[bins - 1] if bins else 0.0) + large[inside].cumsum(dtype=numpy.float64)
    inside = inside[: int(numpy.searchsorted(reached, target)) + 1]
    out[ids] = numpy.where(number > border, large, 0)
    out[ids[inside]] = large[inside]


def truncate(probabilities: Tensor, top_p: float, top_k: int) -> Tensor:
    """Zero what nucleus and top-k leave out; not renormalised. [..., V] -> [..., V].

    Of equal ones at the border the first ids stay, so that exactly k do.
    """
    if top_p == 1 and not top_k:
        return probabilities
    if not top_k and not probabilities.is_cuda and probabilities.shape[-1] >= BINNED:
        kept: Tensor = nucleus(probabilities, top_p)
        return kept
    size = min(top_k or probabilities.shape[-1], probabilities.shape[-1])
    ordered = probabilities.topk(size).values if top_k else descending(probabilities)
    count = torch.full_like(ordered[..., :1], ordered.shape[-1], dtype=torch.int64)
    if top_p < 1:
        before = ordered.cumsum(-1) - ordered
        count = (before < top_p * ordered.sum(-1, keepdim=True)).sum(-1, keepdim=True).clamp(min=1)
    least = ordered.gather(-1, count - 1)
    larger, equal = probabilities > least, probabilities == least
    room = count - larger.sum(-1, keepdim=True)
    return torch.where(larger | (equal & (equal.cumsum(-1) <= room)), probabilities, 0)


@library.custom_op("proseco::best", mutates_args=())
def best(values: Tensor) -> Tensor:
    """The first index of the largest value, [..., V] -> [...]: ``argmax``, on a CPU by numpy, which takes a tenth of torch's time."""
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:  # which numpy has not
        return torch.from_numpy(numpy.asarray(values.numpy().argmax(-1)))
    return values.argmax(-1)


@best.register_fake
def _(values: Tensor) -> Tensor:
    return values.new_empty(values.shape[:-1], dtype=torch.int64)


def draw(logits: Tensor, u: Tensor, config: DrawConfig) -> tuple[Tensor, Tensor]:
    """Tokens and their probability under the untempered distribution.

    Args:
        logits: [..., V], float32, forbidden ids at -inf.
        u: uniforms [...], float64.
    Returns:
        (tokens [...] int64, probability [...] float32).
    """
    return Urn.of(logits, config).draw(u)


@dataclass(frozen=True)
class Urn:
    """What tokens are drawn from, as often as is wanted."""

    probability: Tensor
    """[..., V], untempered."""
    weight: Tensor
    """[..., V], by which they are drawn; 0 for all that is left out. [..., 0] where the best is taken."""
    best: Tensor
    """[...]: the most probable token where that is taken, else empty."""

    @classmethod
    def of(cls, logits: Tensor, config: DrawConfig) -> Urn:
        """Of logits [..., V], forbidden ids at -inf."""
        probability = torch.softmax(logits, dim=-1)
        if config.temperature == 0:
            return cls(probability, probability[..., :0], best(logits))
        tempered = probability
        if config.temperature != 1:
            # The largest is 0 and what is forbidden -inf at any temperature, so nothing is divided into NaN.
            temperature = min(max(config.temperature, 1e-30), 1e30)
            tempered = torch.softmax((logits - logits.amax(-1, keepdim=True)) / temperature, dim=-1)
        return cls(probability, truncate(tempered, config.top_p, config.top_k), probability.new_zeros(0, dtype=torch.int64))

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """See ``categorical.draw``."""
        tokens = inverse_cdf(self.weight, u) if self.weight.shape[-1] else self.best
        return tokens, self.probability.gather(-1, tokens[..., None])[..., 0]


def opinion(logits: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(the best token [N], its log-probability [N], that of the token ``own`` [N]) under logits [N, V].

    On a CPU a few positions after the others, so that their log-probabilities are read while they lie in its caches.
    """
    if logits.is_cuda and logits.dtype == torch.float32 and makes_kernels():
        from components.diffusion import kernels

        return kernels.opinion(logits, own)
    some = len(logits) if logits.is_cuda else max(SOME, NUMBERS // logits.shape[-1])
    parts = []
    for part, token in zip(logits.split(max(1, some)), own.split(max(1, some)), strict=True):
        log_p, first = torch.log_softmax(part, -1), best(part)
        parts.append((first, *(log_p.gather(-1, x[:, None])[:, 0] for x in (first, token))))
    first, log_first, log_own = (torch.cat(x) for x in zip(*parts, strict=True))
    return first, log_first, log_own


def log_odds(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p / (1 - p) of tokens [...] under logits [..., V]: infinite where there is no other."""
    own = tokens[..., None]
    others = logits.scatter(-1, own, float("-inf"))
    return logits.gather(-1, own)[..., 0] - torch.logsumexp(others, -1)


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The first index whose cumulative weight exceeds u times the total. [..., V], [...] -> [...].

    Sums are in float64: of blocks first, and inside the block that is hit. A class of weight zero is never returned.
    """
    *rest, size = weights.shape
    blocks = F.pad(weights, (0, -size % BLOCK)).view(*rest, -(-size // BLOCK), BLOCK)
    before = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = u[..., None] * before[..., -1:]
    block = first_above(before, target)[..., None]
    target = target - torch.where(block > 0, before.gather(-1, (block - 1).clamp(min=0)), 0)
    inside = blocks.gather(-2, block[..., None].expand(*rest, 1, BLOCK))[..., 0, :].to(torch.float64).cumsum(-1)
    return block[..., 0] * BLOCK + first_above(inside, target)


def first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """The first index [...] whose cumulative weight [..., N] exceeds a target [..., 1], or that reaches the total where rounding
    made the target as large."""
    return torch.minimum((cumulative <= target).sum(-1), (cumulative < cumulative[..., -1:]).sum(-1))
