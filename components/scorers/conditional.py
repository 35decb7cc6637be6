"""How likely a text is after another one, under a network that reads the whole row at once.

The bound of any order, given the context as clean tokens: over numbers n of masks among the N tokens that are asked
about, E[N/n x the sum of -log f over n random ones] (arXiv 2409.02908). What follows them in the row stays masked,
which is how such a network is told that something is unknown; so every row has the length that it was trained on.

The draws are the same for whoever asks: two continuations of one context meet the same masks, and their difference
is known better than either. An answer depends on nothing that is asked beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion import noise, select
from components.diffusion.categorical import suppress
from components.diffusion.noise import Stream
from components.models.denoiser import Denoiser

BATCH = 64
"""Draws of one forward."""


@dataclass(frozen=True)
class Asked:
    """A row of known tokens: the context, then the N tokens that are asked about, then masks."""

    tokens: Tensor
    """[L] int64, masks only after ``stop``."""
    start: int
    stop: int
    mask_id: int


@torch.inference_mode()
def bound(model: Denoiser, asked: Asked, num_draws: int, seed: int = 0, number: int = 0) -> Tensor:
    """Nats of each draw [num_draws], float64; their mean is at least -log p(tokens given the context) in expectation.

    Args:
        number: of the piece of a longer text; other pieces have other draws.
    """
    size, device = asked.stop - asked.start, asked.tokens.device
    keys = noise.row_keys(seed, torch.zeros(1, dtype=torch.int64, device=device), number)
    jitter = noise.uniform(keys, 0, 0, 1, Stream.TIME)[:, 0]
    found = []
    for first in range(0, num_draws, BATCH):
        k = torch.arange(first, min(first + BATCH, num_draws), device=device)
        masks = ((jitter + k / num_draws) % 1 * size).long() + 1
        u = noise.uniform(keys.expand(len(k), -1), k, 0, size, Stream.SCORE)
        masked = torch.zeros(len(k), len(asked.tokens), dtype=torch.bool, device=device)
        masked[:, asked.start : asked.stop] = select.best(u, torch.ones_like(u, dtype=torch.bool), masks)
        found.append(nats(model, asked, masked) * size / masks)
    return torch.cat(found)


def nats(model: Denoiser, asked: Asked, masked: Tensor) -> Tensor:
    """The sum of -log f over the masked tokens of each row [B]; ``masked`` is [B, L] bool."""
    noised = asked.tokens.masked_fill(masked, asked.mask_id)
    where = masked.flatten().nonzero()[:, 0]
    logits = suppress(model(noised, select=where, time=time_of(noised, asked)).logits, (asked.mask_id,))
    row, position = where // masked.shape[1], where % masked.shape[1]
    each = F.cross_entropy(logits, asked.tokens[position], reduction="none").double()
    return torch.zeros(len(masked), dtype=torch.float64, device=each.device).index_add(0, row, each)


def time_of(noised: Tensor, asked: Asked) -> Tensor:
    """The time of rows with so many masks [B], for networks that read it: their share of what is no context."""
    return (noised == asked.mask_id).sum(-1).float() / (len(asked.tokens) - asked.start)


@torch.inference_mode()
def is_greedy(model: Denoiser, asked: Asked) -> bool:
    """Would writing the most probable token of the most confident position, one a call, write these tokens?"""
    row = asked.tokens.clone()
    row[asked.start : asked.stop] = asked.mask_id
    left = list(range(asked.start, asked.stop))
    while left:
        where = torch.tensor(left, device=row.device)
        logits = model(row[None], select=where, time=time_of(row[None], asked)).logits
        confidence, token = suppress(logits, (asked.mask_id,)).log_softmax(-1).max(-1)
        best = int(confidence.argmax())
        if int(token[best]) != int(asked.tokens[left[best]]):
            return False
        row[left[best]] = token[best]
        del left[best]
    return True
