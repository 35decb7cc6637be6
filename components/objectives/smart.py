"""SMART: "Semi-Autoregressive Training Improves Mask-Predict Decoding", arXiv 2001.08785, and the mix of visible-token
supervision that other editors train with.

    z0 = mask(x, r0);  y0 = x where visible, stop_gradient f(. | z0) where masked;  z1 = mask(y0, n ~ U)
    L = - sum over ALL i of w_i log f_i(x_i | z1)

At masks it predicts, at visible positions it corrects; the minimiser there is the posterior of the truth given
a perhaps wrong token. w tells masked, wrong-visible and right-visible positions apart: most visible tokens are
right, so the plain sum rewards copying. A share of rows is plain masked diffusion, whose term is the only one
that enters a reported likelihood.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from components.diffusion.noise import Stream
from components.diffusion.select import best
from components.objectives.base import (
    Batch,
    Network,
    Objective,
    Setting,
    Term,
    corruption,
    draw_times,
    one_uniform,
    uniforms,
)
from components.objectives.config import SmartConfig
from components.objectives.fills import fill_tokens, judged_at, logits_at, overwrite_some
from components.objectives.mdlm import Noised, noise_rows, unmasking_term, unmasking_weight


@dataclass(frozen=True)
class TwiceMasked:
    """The rows of a batch with the masks of both of its losses."""

    noised: Noised
    """For plain masked diffusion; masked in the plain rows only."""
    plain: Bool[Tensor, "B"]
    """Rows of plain masked diffusion."""
    first: Bool[Tensor, "B L"]
    """Masks of z0, which the network fills."""
    second: Bool[Tensor, "B L"]
    """Masks of z1, over what it filled."""


def build(config: SmartConfig, setting: Setting) -> Objective[TwiceMasked]:
    """The objective with its options bound."""

    def corrupt(batch: Batch) -> TwiceMasked:
        plain = one_uniform(batch, Stream.MIX) < config.plain_share
        noised = noise_rows(batch, setting)
        noised = replace(noised, masked=noised.masked & plain[:, None])
        return TwiceMasked(noised, plain, *two_masks(batch, config))

    def counts(rows: TwiceMasked) -> dict[str, Tensor]:
        target, plain = rows.noised.batch.target, rows.plain[:, None]
        return {"mdm": (target & plain).sum(), "smart": (target & ~plain).sum()}

    def terms(network: Network, rows: TwiceMasked) -> Iterator[Term]:
        noised, batch = rows.noised, rows.noised.batch
        weight = unmasking_weight(noised, setting)
        judged = judged_at(network, noised.tokens, noised.masked, weight, batch, setting, time=noised.time)
        term = unmasking_term(judged, noised)
        yield replace(term, metrics={"masked_ce": term.metrics["masked_ce"]})
        with torch.no_grad():
            shown = compose(network, rows, config, setting)
        yield smart_term(network, rows, shown, config, setting)

    return Objective(corrupt, counts, terms)


def two_masks(batch: Batch, config: SmartConfig) -> tuple[Bool[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Masks of z0, a share of the row in the range ``first_mask``, and those of z1, a uniform number."""
    low, high = config.first_mask
    size = batch.maskable.sum(-1)
    share = low + (high - low) * one_uniform(batch, Stream.PAIR)
    first = best(corruption(batch), batch.maskable, (share * size).round().long())
    num_second = torch.ceil(draw_times(batch, 1e-6).double() * size).long()
    return first, best(uniforms(batch, Stream.SECOND_MASK), batch.maskable, num_second)


def compose(network: Network, rows: TwiceMasked, config: SmartConfig, setting: Setting) -> Int64[Tensor, "B L"]:
    """z1: clean tokens and the network's own ones under new masks."""
    batch, first = rows.noised.batch, rows.first
    z0 = batch.tokens.masked_fill(first, setting.mask_id)
    logits = logits_at(network, z0, first, batch, setting, time=batch.share(first))
    y0, _ = fill_tokens(logits, first, batch, config.fill)
    y0 = overwrite_some(y0, config.random_share, batch, setting)
    return y0.masked_fill(rows.second, setting.mask_id)


def smart_term(
    network: Network, rows: TwiceMasked, shown: Int64[Tensor, "B L"], config: SmartConfig, setting: Setting
) -> Term:
    """The weighted sum over all target positions of the rows that are not plain; ``shown`` is z1."""
    batch = rows.noised.batch
    where = batch.target & ~rows.plain[:, None]
    time = batch.share(rows.second)
    masked, right = shown == setting.mask_id, shown == batch.tokens
    wrong = ~masked & ~right
    weight = torch.where(masked, config.masked_weight, torch.where(wrong, config.wrong_weight, config.right_weight))
    judged = judged_at(network, shown, where, weight, batch, setting, best=True, time=time)
    nll, masked, right, wrong, found = judged.nll, masked[where], right[where], wrong[where], judged.tokens == batch.tokens[where]
    metrics = {
        "wrong_ce": (nll[wrong].sum(), wrong.sum()),
        "right_ce": (nll[right].sum(), right.sum()),
        "share_wrong": (wrong.sum(), (~masked).sum()),
        "fix_rate": (found[wrong].sum(), wrong.sum()),
        "break_rate": ((~found)[right].sum(), right.sum()),
    }
    return Term("smart", judged.loss_sum, metrics)
