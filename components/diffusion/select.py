"""Choosing positions, for all rows at once."""

from __future__ import annotations

import torch
from torch import Tensor


def best(score: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """The ``count[b]`` candidates of highest score in each row; the earlier position wins a tie.

    Args:
        score: [B, L], floating; minus infinity is the lowest there is; candidates: [B, L] bool; count: [B] int64.
    Returns:
        [B, L] bool, a subset of the candidates.
    """
    score = score.clamp(min=torch.finfo(score.dtype).min)  # a candidate is before what is none, however low
    order = score.masked_fill(~candidates, float("-inf")).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    rank.scatter_(-1, order, places)
    return candidates & (rank < count[:, None])
