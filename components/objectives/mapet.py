"""MaPeT: "Learning to Mask and Permute Visual Tokens for Vision Transformer Pre-Training", arXiv 2306.07346.

    sigma a random order of the positions, the first n0 of them context
    L = - mean over predicted j of log f_j( x_j | context, tokens of earlier rank, the positions of all others )

Two streams with shared weights: content rows, and queries that see the content of earlier ranks and position-only
masks for everything not seen yet, so that each prediction knows how many unknowns there are and where. The trained
network is an ordinary any-order denoiser. With n0 = 0 the sum is the any-order bound on the likelihood, many noise
levels in one forward, but along one order. ``streams: one`` lets the mask rows be the queries: a third cheaper, and
blind to later masks, which would leak.

Departure: rows are laid out as content, masks and queries at every position, 3 L rows, where the released code
leaves out those of context positions (2.5 L at n0 = L/4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from components.diffusion.noise import Stream
from components.models.permuted import Permuted
from components.objectives.base import Batch, Network, Objective, Setting, Term, uniforms
from components.objectives.config import MapetConfig
from components.objectives.fills import judged_at


@dataclass(frozen=True)
class Ordered:
    """The rows of a batch, each with an order of its own."""

    batch: Batch
    rank: Int64[Tensor, "B L"]
    """Place of each position in the order, from 1; 0 is prompt and context."""
    predicted: Bool[Tensor, "B L"]
    """Where the loss counts."""


def build(config: MapetConfig, setting: Setting) -> Objective[Ordered]:
    """The objective with its options bound."""

    def corrupt(batch: Batch) -> Ordered:
        rank, num_ranks = ranks(batch, config.context)
        predicted = batch.target & (rank > 0) & (rank <= config.upper * num_ranks[:, None])
        return Ordered(batch, rank, predicted)

    def counts(rows: Ordered) -> dict[str, Tensor]:
        return {"permuted": rows.predicted.sum()}

    def terms(network: Network, rows: Ordered) -> Iterator[Term]:
        batch, where = rows.batch, rows.predicted
        permuted = Permuted(rows.rank, setting.mask_id, config.streams == "two")
        time = batch.share(rows.rank > 0)
        judged = judged_at(network, batch.tokens, where, where.float(), batch, setting, time=time, permuted=permuted)
        yield Term("permuted", judged.loss_sum, {"permuted_ce": (judged.nll.sum(), where.sum())})

    return Objective(corrupt, counts, terms)


def ranks(batch: Batch, context: float) -> tuple[Int64[Tensor, "B L"], Int64[Tensor, "B"]]:
    """A random order of each row.

    Args:
        context: share of the maskable positions that come first and are not predicted.
    Returns:
        (place of each position in the order, 0 for prompt and context; number of predicted positions of the row).
    """
    u = uniforms(batch, Stream.ORDER_OF_PREDICTION).masked_fill(~batch.maskable, -1)
    order = u.argsort(dim=-1, stable=True)
    place = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[1], device=u.device).expand_as(order))
    size = batch.maskable.sum(-1)
    fixed = order.shape[1] - size + (context * size).long()
    rank = (place - fixed[:, None] + 1).clamp(min=0)
    return rank, order.shape[1] - fixed
