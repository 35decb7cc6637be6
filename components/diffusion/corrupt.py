"""Corruption of clean rows, shared by objectives and scorers."""

from __future__ import annotations

from torch import Tensor


def mask_tokens(tokens: Tensor, maskable: Tensor, keep: Tensor, u: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Replace each maskable token by the mask with probability ``1 - keep``.

    Args:
        tokens: [B, L]; maskable: [B, L] bool; keep: share kept [B]; u: uniforms [B, L].
    Returns:
        (noised tokens [B, L], masked [B, L] bool). The inputs are not changed.
    """
    masked = maskable & (u >= keep[:, None])
    return tokens.masked_fill(masked, mask_id), masked
