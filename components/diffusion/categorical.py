"""Exact draws of tokens from logits, one uniform each.

Whether a position is unmasked is decided elsewhere, before *what* it becomes: a joint Gumbel race of
"stay masked" against 50,000 tokens silently truncates the tail in float32 (arXiv 2409.02908). Here
the cumulative sum runs in float64 and one uniform picks the token, so a class of probability 1e-6 is
drawn one time in a million.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.diffusion.config import DrawConfig


def suppress(logits: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Logits in float32 (float64 stays) with the given ids made impossible. The input is not changed."""
    logits = logits.clone() if logits.dtype in (torch.float32, torch.float64) else logits.float()
    for token_id in ids:
        logits[..., token_id] = float("-inf")
    return logits


def truncate(probabilities: Tensor, top_p: float, top_k: int) -> Tensor:
    """Zero what nucleus and top-k leave out; not renormalised. [..., V] -> [..., V]."""
    if top_k:
        # Of equal ones at the border the first ids stay, so that exactly k do.
        kept = probabilities.argsort(dim=-1, descending=True, stable=True)[..., :top_k]
        probabilities = torch.zeros_like(probabilities).scatter(-1, kept, probabilities.gather(-1, kept))
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        total = ordered.sum(-1, keepdim=True)
        before = ordered.cumsum(-1) - ordered
        kept = torch.where(before < top_p * total, ordered, 0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, kept)
    return probabilities


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
        tokens = logits.argmax(-1)
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
