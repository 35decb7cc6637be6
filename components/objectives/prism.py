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
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from components.diffusion.noise import Stream
from components.models.judging import Judge, judge_logits
from components.objectives.base import Batch, Network, Objective, Setting, Term, nowhere, uniforms
from components.objectives.config import PrismConfig
from components.objectives.fills import count_kept, fill_tokens, keep_best, logits_at, quality_term
from components.objectives.mdlm import Noised, noise_rows, unmasking_term, unmasking_weight


def build(config: PrismConfig, setting: Setting) -> Objective[Noised]:
    """The objective with its options bound."""

    def corrupt(batch: Batch) -> Noised:
        return noise_rows(batch, setting)

    def counts(noised: Noised) -> dict[str, Tensor]:
        num_fills = config.draws * count_kept(noised.masked & noised.batch.target, config.num_fills)
        return {"quality": num_fills} | ({"mdm": noised.batch.target.sum()} if config.mdm_weight else {})

    def terms(network: Network, noised: Noised) -> Iterator[Term]:
        batch, time, masked = noised.batch, noised.time, noised.masked
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.mdm_weight > 0):
            logits = logits_at(network, noised.tokens, masked, batch, setting, time=time)
        pairs = [fill(logits, noised, config, inner) for inner in range(config.draws)]
        if config.mdm_weight:
            weight = unmasking_weight(noised, setting)[masked]
            judged = judge_logits(logits, Judge(batch.tokens[masked], weight, setting.mask_id))
            yield unmasking_term(judged, noised).times(config.mdm_weight)
        filled, chosen = (torch.cat(x) for x in zip(*pairs, strict=True))
        copies = batch.repeated(config.draws)
        prediction = network(
            filled,
            select=nowhere(filled),
            time=time.repeat(config.draws),
            heads=("quality_logits",),
            frozen=config.frozen,
            **copies.told,
        )
        yield quality_term(prediction.heads["quality_logits"], filled, copies.tokens, chosen)

    return Objective(corrupt, counts, terms)


def fill(
    logits: Float[Tensor, "N V"], noised: Noised, config: PrismConfig, inner: int
) -> tuple[Int64[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """A noisy row with K of its masks filled, and where they are; ``inner`` is the number of this version."""
    batch, masked = noised.batch, noised.masked
    tokens, probability = fill_tokens(logits, masked, batch, config.fill, inner)
    score = uniforms(batch, Stream.PAIR, inner) if config.select == "random" else probability.double()
    chosen = keep_best(masked & batch.target, config.num_fills, score)
    return torch.where(chosen, tokens, noised.tokens), chosen
