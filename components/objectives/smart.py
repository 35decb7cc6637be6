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

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion.categorical import suppress
from components.diffusion.corrupt import random_tokens
from components.diffusion.noise import Stream
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
from components.objectives.mdlm import noise_rows, unmasking_term
from components.objectives.pair import logits_at, some_of_each, words


def build(config: SmartConfig, setting: Setting) -> Objective:
    """The objective with its options bound."""

    def plain(batch: Batch) -> Tensor:
        """[B] bool."""
        return one_uniform(batch, Stream.MIX) < config.plain_share

    def counts(batch: Batch) -> dict[str, Tensor]:
        rows = plain(batch)[:, None]
        return {"mdm": (batch.target & rows).sum(), "smart": (batch.target & ~rows).sum()}

    def terms(model: Network, batch: Batch) -> Iterator[Term]:
        rows = plain(batch)
        time, masked, noised = noise_rows(batch, setting)
        masked = masked & rows[:, None]
        select = masked.flatten().nonzero()[:, 0]
        logits = suppress(model(noised, select=select, label=batch.label, time=time).logits, (setting.mask_id,))
        term = unmasking_term(logits, select, batch, time, setting, flat=False)
        kept = {"masked_ce": term.metrics["masked_ce"]}
        yield Term("mdm", term.loss_sum, kept)
        with torch.no_grad():
            draft, fraction = corrupted(model, batch, config, setting)
        yield smart_term(model, batch, draft, fraction, batch.target & ~rows[:, None], config, setting)

    return Objective(counts, terms)


def corrupted(model: Network, batch: Batch, config: SmartConfig, setting: Setting) -> tuple[Tensor, Tensor]:
    """(z1 [B, L], its share of masks [B])."""
    low, high = config.first_mask
    size = batch.maskable.sum(-1)
    share = low + (high - low) * one_uniform(batch, Stream.PAIR)
    first = some_of_each(batch.maskable, (share * size).round().long(), corruption(batch))
    z0 = batch.tokens.masked_fill(first, setting.mask_id)
    logits = logits_at(model, z0, first, batch, setting, time=first.float().mean(-1))
    y0, _ = words(logits, first, batch, config.fill)
    if config.random_share:
        y0 = random_tokens(
            y0, batch.maskable, config.random_share, batch.keys, batch.step, setting.vocab_size, setting.mask_id
        )
    number = torch.ceil(draw_times(batch, 1e-6).double() * size).long()
    second = some_of_each(batch.maskable, number, uniforms(batch, Stream.SECOND_MASK))
    return y0.masked_fill(second, setting.mask_id), second.float().mean(-1)


def smart_term(
    model: Network, batch: Batch, draft: Tensor, time: Tensor, where: Tensor, config: SmartConfig, setting: Setting
) -> Term:  # fmt: skip
    """The weighted sum over ``where`` [B, L] bool."""
    select = where.flatten().nonzero()[:, 0]
    logits = suppress(model(draft, select=select, label=batch.label, time=time).logits, (setting.mask_id,))
    clean, shown = batch.tokens.flatten()[select], draft.flatten()[select]
    nll = F.cross_entropy(logits, clean, reduction="none")
    masked, wrong = shown == setting.mask_id, (shown != setting.mask_id) & (shown != clean)
    weight = torch.where(masked, config.masked_weight, torch.where(wrong, config.wrong_weight, config.right_weight))
    right = ~masked & ~wrong
    with torch.no_grad():
        metrics = {
            "wrong_ce": (nll[wrong].sum(), wrong.sum()),
            "right_ce": (nll[right].sum(), right.sum()),
            "share_wrong": (wrong.sum(), (~masked).sum()),
            "fix_rate": ((logits.argmax(-1) == clean)[wrong].sum(), wrong.sum()),
            "break_rate": ((logits.argmax(-1) != clean)[right].sum(), right.sum()),
        }
    return Term("smart", (nll * weight).sum(), metrics)
