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

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion.categorical import suppress
from components.diffusion.noise import Stream
from components.models.permuted import Permuted
from components.objectives.base import Batch, Network, Objective, Setting, Term, uniforms
from components.objectives.config import MapetConfig


def build(config: MapetConfig, setting: Setting) -> Objective:
    """The objective with its options bound."""

    def predicted(batch: Batch) -> tuple[Tensor, Tensor]:
        """(rank [B, L], 0 for context; where the loss counts [B, L] bool)."""
        rank, size = ranks(batch, config.context)
        return rank, batch.target & (rank > 0) & (rank <= config.upper * size[:, None])

    def counts(batch: Batch) -> dict[str, Tensor]:
        return {"permuted": predicted(batch)[1].sum()}

    def terms(model: Network, batch: Batch) -> Iterator[Term]:
        rank, where = predicted(batch)
        permuted = Permuted(rank, setting.mask_id, config.streams == "two")
        select = where.flatten().nonzero()[:, 0]
        time = (rank > 0).float().mean(-1)
        found = model(batch.tokens, select=select, label=batch.label, time=time, permuted=permuted)
        logits = suppress(found.logits, (setting.mask_id,))
        nll = F.cross_entropy(logits, batch.tokens.flatten()[select], reduction="none")
        yield Term("permuted", nll.sum(), {"permuted_ce": (nll.detach().sum(), where.sum())})

    return Objective(counts, terms)


def ranks(batch: Batch, context: float) -> tuple[Tensor, Tensor]:
    """(place of each position in a random order [B, L], 0 for prompt and context; number of predicted ones [B])."""
    u = uniforms(batch, Stream.ORDER_OF_PREDICTION).masked_fill(~batch.maskable, -1)
    order = u.argsort(dim=-1, stable=True)
    place = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[1], device=u.device).expand_as(order))
    size = batch.maskable.sum(-1)
    fixed = order.shape[1] - size + (context * size).long()
    rank = (place - fixed[:, None] + 1).clamp(min=0)
    return rank, order.shape[1] - fixed
