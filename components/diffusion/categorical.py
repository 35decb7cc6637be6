"""Exact draws of tokens from logits, one uniform each.

Whether a position is unmasked is decided elsewhere, before *what* it becomes: a joint Gumbel race of
"stay masked" against 50,000 tokens silently truncates the tail in float32 (arXiv 2409.02908). Here
the cumulative sum runs in float64 and one uniform picks the token, so a class of probability 1e-6 is
drawn one time in a million.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from components.diffusion.config import DrawConfig

BLOCK = 64
"""Neighbours that are looked at as one, before it is known in which of them the best lies."""


def suppress(logits: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Logits in float32 (float64 stays) with the given ids made impossible. The input is not changed."""
    logits = logits.clone() if logits.dtype in (torch.float32, torch.float64) else logits.float()
    for token_id in ids:
        logits[..., token_id] = float("-inf")
    return logits


@torch.library.custom_op("components::descending", mutates_args=())
def descending(values: Tensor) -> Tensor:
    """Values [..., V] from the largest to the least: on a CPU by numpy, which sorts them in a fifth of torch's time."""
    if values.device.type == "cpu":
        return torch.from_numpy(numpy.sort(values.numpy(), axis=-1)).flip(-1)
    return values.sort(dim=-1, descending=True).values


@descending.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)


def truncate(probabilities: Tensor, top_p: float, top_k: int) -> Tensor:
    """Zero what nucleus and top-k leave out; not renormalised. [..., V] -> [..., V].

    Of equal ones at the border the first ids stay, so that exactly k do.
    """
    if top_p == 1 and not top_k:
        return probabilities
    ordered = descending(probabilities)[..., : top_k or None]
    count = torch.full_like(ordered[..., :1], ordered.shape[-1], dtype=torch.int64)
    if top_p < 1:
        before = ordered.cumsum(-1) - ordered
        count = (before < top_p * ordered.sum(-1, keepdim=True)).sum(-1, keepdim=True).clamp(min=1)
    least = ordered.gather(-1, count - 1)
    larger, equal = probabilities > least, probabilities == least
    room = count - larger.sum(-1, keepdim=True)
    return torch.where(larger | (equal & (equal.cumsum(-1) <= room)), probabilities, 0)


def best(values: Tensor) -> Tensor:
    """The first index of the largest value, [..., V] -> [...]: ``argmax``, which on a CPU compares one by one, asked about one
    block alone."""
    *rest, size = values.shape
    whole = size // BLOCK * BLOCK
    if whole < 8 * BLOCK or values.is_cuda:
        return values.argmax(-1)
    blocks = values[..., :whole].unflatten(-1, (-1, BLOCK))
    first = blocks.amax(-1).argmax(-1)
    inside = blocks.gather(-2, first[..., None, None].expand(*rest, 1, BLOCK))[..., 0, :]
    found = first * BLOCK + inside.argmax(-1)
    if whole == size:
        return found
    behind = values[..., whole:]
    at = behind.argmax(-1)
    larger = behind.gather(-1, at[..., None]) > inside.amax(-1, keepdim=True)
    return torch.where(larger[..., 0], whole + at, found)


def draw(logits: Tensor, u: Tensor, config: DrawConfig) -> tuple[Tensor, Tensor]:
    """Tokens and their probability under the untempered distribution.

    Args:
        logits: [..., V], float32, forbidden ids at -inf.
        u: uniforms [...], float64.
    Returns:
        (tokens [...] int64, probability [...] float32).
    """
    probabilities = torch.softmax(logits, dim=-1)
    if config.temperature == 0:
        tokens = best(logits)
    else:
        tempered = probabilities
        if config.temperature != 1:
            # The largest is 0 and what is forbidden -inf at any temperature, so nothing is divided into NaN.
            temperature = min(max(config.temperature, 1e-30), 1e30)
            tempered = torch.softmax((logits - logits.amax(-1, keepdim=True)) / temperature, dim=-1)
        tokens = inverse_cdf(truncate(tempered, config.top_p, config.top_k), u)
    return tokens, probabilities.gather(-1, tokens[..., None])[..., 0]


def log_odds(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p / (1 - p) of tokens [...] under logits [..., V]: infinite where there is no other."""
    own = tokens[..., None]
    others = logits.scatter(-1, own, float("-inf"))
    return logits.gather(-1, own)[..., 0] - torch.logsumexp(others, -1)


def inverse_cdf(weights: Tensor, u: Tensor) -> Tensor:
    """The first index whose cumulative weight exceeds u times the total. [..., V], [...] -> [...].

    A class of weight zero is never returned: the total is the last cumulative value itself.
    """
    cumulative = weights.to(torch.float64).cumsum(-1)
    target = u[..., None] * cumulative[..., -1:]
    return (cumulative <= target).sum(-1).clamp(max=weights.shape[-1] - 1)
