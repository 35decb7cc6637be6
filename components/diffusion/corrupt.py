"""Corruption of clean rows, shared by objectives and scorers."""

from __future__ import annotations

import torch
from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream


def mask_tokens(tokens: Tensor, maskable: Tensor, keep: Tensor, u: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Replace each maskable token by the mask with probability ``1 - keep``.

    Args:
        tokens: [B, L]; maskable: [B, L] bool; keep: share kept [B]; u: uniforms [B, L].
    Returns:
        (noised tokens [B, L], masked [B, L] bool). The inputs are not changed.
    """
    masked = maskable & (u >= keep[:, None])
    return tokens.masked_fill(masked, mask_id), masked


def random_tokens(
    tokens: Tensor, where: Tensor, share: float, keys: Tensor, step: int, vocab_size: int, mask_id: int
) -> Tensor:
    """Each position of ``where`` [B, L] bool overwritten with probability ``share`` by a uniform token that is no mask."""
    u = noise.uniform(keys, step, 0, tokens.shape[1], Stream.RANDOM_TOKEN)
    which = noise.uniform(keys, step, 1, tokens.shape[1], Stream.RANDOM_TOKEN)
    word = (which * (vocab_size - 1)).long()
    word = word + (word >= mask_id).long()
    return torch.where(where & (u < share), word, tokens)
