"""PRISM: "Fine-Tuning Masked Diffusion for Provable Self-Correction", arXiv 2510.01384.

    z = mask(x);  S: K masked positions;  y = z with y_i ~ stop_gradient f_i(. | z) on S
    L = mean over S of BCE( 1[x_i = y_i], g_i(y) )  +  lambda * L_MDM(z)

Given z the draw y_i is independent of x_i, so for K = 1 the best head is g_i(y) = p(x_i = y_i | y without i),
whatever network made the draw. For K > 1 it averages over which of the others are fresh guesses.

The head reads the FILLED row in a second pass. One pass over z would learn how well the largest
probability is calibrated, not how good a token is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from components.diffusion.categorical import suppress
from components.diffusion.noise import Stream
from components.objectives.base import Batch, Network, Objective, Setting, Term, uniforms
from components.objectives.config import PrismConfig
from components.objectives.mdlm import noise_rows, unmasking_term
from components.objectives.pair import judging_term, num_of, some_of, words


def build(config: PrismConfig, setting: Setting) -> Objective:
    """The objective with its options bound."""

    def counts(batch: Batch) -> dict[str, Tensor]:
        _, masked, _ = noise_rows(batch, setting)
        found = {"quality": config.draws * num_of(masked & batch.target, config.num_fills)}
        return found | ({"mdm": batch.target.sum()} if config.mdm_weight else {})

    def terms(model: Network, batch: Batch) -> Iterator[Term]:
        time, masked, noised = noise_rows(batch, setting)
        flat = masked.flatten().nonzero()[:, 0]
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.mdm_weight > 0):
            logits = suppress(model(noised, select=flat, label=batch.label, time=time).logits, (setting.mask_id,))
        pairs = [fill(logits, masked, noised, batch, config, inner) for inner in range(config.draws)]
        if config.mdm_weight:
            term = unmasking_term(logits, flat, batch, time, setting, flat=False)
            yield Term(term.name, config.mdm_weight * term.loss_sum, term.metrics)
        filled, chosen = (torch.cat(x) for x in zip(*pairs, strict=True))
        clean = batch.tokens.repeat(config.draws, 1)
        label = None if batch.label is None else batch.label.repeat(config.draws)
        judged = model(
            filled, select=flat[:0], label=label, time=time.repeat(config.draws), heads=("quality_logits",),
            frozen=config.frozen,
        )  # fmt: skip
        yield judging_term(judged.heads["quality_logits"], filled, clean, chosen)

    return Objective(counts, terms)


def fill(
    logits: Tensor, masked: Tensor, noised: Tensor, batch: Batch, config: PrismConfig, inner: int
) -> tuple[Tensor, Tensor]:
    """(a row with K of its masks filled [B, L], where [B, L] bool)."""
    tokens, probability = words(logits, masked, batch, config.fill, inner)
    score = uniforms(batch, Stream.PAIR, inner) if config.select == "random" else probability.double()
    chosen = some_of(masked & batch.target, config.num_fills, score)
    return torch.where(chosen, tokens, noised), chosen
