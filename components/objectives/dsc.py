"""Decoupled Self-Correction, renamed BackPlay (arXiv 2601.06428), Algorithm 2.

    t ~ U[0, 1 - dt],  t' ~ U[dt, 1 - t];  x_t masks with t,  x_(t+t') also each still visible token with t'/(1 - t)
    y ~ frozen f(. | x_(t+t'));  M: the ceil(L dt) most confident masks of it;  z = x_t with M replaced by y
    L = BCE( 1[z_i = x_i], h_i(z) ),  h a head on the frozen network's features of z

So the head learns to see stale mistakes: written early, judged late. Judged at M alone ("artifact") its
target is PRISM's p(x_i = z_i | the rest), because y depends on x through the poorer context only; judged at
every visible token it also learns how many artifacts there were, which ``step`` sets.

Positions that are still masked are never judged; their label would be 0 always. L is the number of a row's positions
that may be masked: the paper's rows have no prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from components.diffusion.corrupt import mask_tokens
from components.diffusion.noise import Stream
from components.objectives.base import (
    Batch,
    Network,
    Objective,
    Setting,
    Term,
    corruption,
    draw_times,
    nowhere,
    one_uniform,
)
from components.objectives.config import DscConfig
from components.objectives.fills import count_kept, fill_tokens, keep_best, logits_at, quality_term


@dataclass(frozen=True)
class LookBack:
    """The rows of a batch at two times of their generation."""

    batch: Batch
    tokens: Int64[Tensor, "B L"]
    """x_t: the rows when they are judged."""
    masked: Bool[Tensor, "B L"]
    """Masks of ``tokens``."""
    early_tokens: Int64[Tensor, "B L"]
    """x_(t + t'): the rows when tokens were written."""
    early_masked: Bool[Tensor, "B L"]
    """Masks of ``early_tokens``, which include those of ``tokens``."""
    fillable: Bool[Tensor, "B L"]
    """Early masks that may be filled."""


def build(config: DscConfig, setting: Setting) -> Objective[LookBack]:
    """The objective with its options bound."""

    def corrupt(batch: Batch) -> LookBack:
        later = draw_times(batch, 0.0) * (1 - config.step)
        back = config.step + one_uniform(batch, Stream.PAIR).float() * (1 - later - config.step)
        u = corruption(batch)
        tokens, masked = mask_tokens(batch.tokens, batch.maskable, 1 - later, u, setting.mask_id)
        early_tokens, early = mask_tokens(batch.tokens, batch.maskable, 1 - later - back, u, setting.mask_id)
        fillable = batch.target & (early & ~masked if config.fill_from == "extra" else early)
        return LookBack(batch, tokens, masked, early_tokens, early, fillable)

    def num_filled(batch: Batch) -> Int64[Tensor, "B"]:
        return torch.ceil(batch.maskable.sum(-1).double() * config.step - 1e-9).long()

    def counts(rows: LookBack) -> dict[str, Tensor]:
        if config.scope == "visible":  # what is filled is visible in x_t: ``DscConfig.problems``
            return {"quality": (rows.batch.target & ~rows.masked).sum()}
        return {"quality": count_kept(rows.fillable, num_filled(rows.batch))}

    def terms(network: Network, rows: LookBack) -> Iterator[Term]:
        batch, early = rows.batch, rows.early_masked
        with torch.no_grad():
            time = batch.share(early)
            logits = logits_at(network, rows.early_tokens, early, batch, setting, time=time, frozen=True)
            tokens, probability = fill_tokens(logits, early, batch, "sample")
            chosen = keep_best(rows.fillable, num_filled(batch), probability)
            filled = torch.where(chosen, tokens, rows.tokens)
        prediction = network(
            filled,
            select=nowhere(filled),
            time=batch.share(rows.masked),
            heads=("quality_logits",),
            frozen=True,
            **batch.told,
        )
        where = chosen if config.scope == "artifact" else batch.target & (filled != setting.mask_id)
        yield quality_term(prediction.heads["quality_logits"], filled, batch.tokens, where)

    return Objective(corrupt, counts, terms)
