"""Decoupled Self-Correction, renamed BackPlay (arXiv 2601.06428), Algorithm 2.

    t ~ U[0, 1 - dt],  t' ~ U[dt, 1 - t];  x_t masks with t,  x_(t+t') also each still visible token with t'/(1 - t)
    y ~ frozen f(. | x_(t+t'));  M: the ceil(L dt) most confident masks of it;  z = x_t with M replaced by y
    L = BCE( 1[z_i = x_i], h_i(z) ),  h a head on the frozen network's features of z

So the head learns to see stale mistakes: written early, judged late. Judged at M alone ("artifact") its
target is PRISM's p(x_i = z_i | the rest), because y depends on x through the poorer context only; judged at
every visible token it also learns how many artifacts there were, which ``step`` sets.

Positions that are still masked are never judged; their label would be 0 always.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from components.diffusion.corrupt import mask_tokens
from components.diffusion.noise import Stream
from components.objectives.base import Batch, Network, Objective, Setting, Term, corruption, draw_times, one_uniform
from components.objectives.config import DscConfig
from components.objectives.pair import judging_term, logits_at, num_of, some_of, words


def build(config: DscConfig, setting: Setting) -> Objective:
    """The objective with its options bound."""

    def states(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(later row [B, L], its masks, earlier row, its masks, which include the later one's)."""
        later = draw_times(batch, 0.0) * (1 - config.step)
        back = config.step + one_uniform(batch, Stream.PAIR).float() * (1 - later - config.step)
        u = corruption(batch)
        x_t, masked = mask_tokens(batch.tokens, batch.maskable, 1 - later, u, setting.mask_id)
        x_early, masked_early = mask_tokens(batch.tokens, batch.maskable, 1 - later - back, u, setting.mask_id)
        return x_t, masked, x_early, masked_early

    def fillable(masked: Tensor, early: Tensor, batch: Batch) -> Tensor:
        return batch.target & (early & ~masked if config.fill_from == "extra" else early)

    def number(batch: Batch) -> int:
        return math.ceil(batch.tokens.shape[1] * config.step)

    def counts(batch: Batch) -> dict[str, Tensor]:
        _, masked, _, early = states(batch)
        if config.scope == "visible":
            return {"quality": batch.target.sum()}
        return {"quality": num_of(fillable(masked, early, batch), number(batch))}

    def terms(model: Network, batch: Batch) -> Iterator[Term]:
        x_t, masked, x_early, early = states(batch)
        with torch.no_grad():
            time = early.float().mean(-1)
            logits = logits_at(model, x_early, early, batch, setting, time=time, frozen=True)
            tokens, probability = words(logits, early, batch, "sample")
            chosen = some_of(fillable(masked, early, batch), number(batch), probability)
            z = torch.where(chosen, tokens, x_t)
        nowhere = torch.zeros(0, dtype=torch.long, device=z.device)
        judged = model(
            z, select=nowhere, label=batch.label, time=masked.float().mean(-1), heads=("quality_logits",), frozen=True
        )
        where = chosen if config.scope == "artifact" else batch.target & (z != setting.mask_id)
        yield judging_term(judged.heads["quality_logits"], z, batch.tokens, where)

    return Objective(counts, terms)
