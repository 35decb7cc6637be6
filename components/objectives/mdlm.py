"""MDLM: "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524, equation 10.

    L = E_t [ w(t) * sum over masked l of -log f_l(x_l | z_t) ],   w = -alpha' / (1 - alpha)

One time a row, stratified over the global batch. The sum is later divided by the number of target
positions, not of masked ones. Unlike the released code, logits are computed at masked positions
only: the others have no loss and no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion.categorical import suppress
from components.diffusion.corrupt import mask_tokens
from components.objectives.base import Batch, Network, Objective, Setting, Term, corruption, draw_times
from components.objectives.config import MdlmConfig


def build(config: MdlmConfig, setting: Setting) -> Objective:
    """The objective with its options bound."""

    def counts(batch: Batch) -> dict[str, Tensor]:
        return {"mdm": batch.target.sum()}

    def terms(model: Network, batch: Batch) -> Iterator[Term]:
        time, masked, noised = noise_rows(batch, setting)
        select = masked.flatten().nonzero()[:, 0]
        logits = suppress(model(noised, select=select, label=batch.label, time=time).logits, (setting.mask_id,))
        yield unmasking_term(logits, select, batch, time, setting, flat=config.weight == "flat")

    return Objective(counts, terms)


def noise_rows(batch: Batch, setting: Setting) -> tuple[Tensor, Tensor, Tensor]:
    """One noisy version of each row: (time [B], masked [B, L], noised tokens [B, L])."""
    time = draw_times(batch, setting.t_min)
    keep = setting.schedule.alpha(time)
    noised, masked = mask_tokens(batch.tokens, batch.maskable, keep, corruption(batch), setting.mask_id)
    return time, masked, noised


def unmasking_term(logits: Tensor, select: Tensor, batch: Batch, time: Tensor, setting: Setting, flat: bool) -> Term:
    """The masked-diffusion sum.

    Args:
        logits: [N, V] float32 at the masked positions, mask id suppressed.
        select: flat indices [N] of these positions.
    """
    rows = select // batch.tokens.shape[1]
    counted = batch.target.flatten()[select].float()
    nll = F.cross_entropy(logits, batch.tokens.flatten()[select], reduction="none") * counted
    weight = torch.ones_like(time) if flat else setting.schedule.weight(time)
    loss = (nll * weight[rows]).sum()
    metrics = {
        "nll_bound": (loss.detach(), batch.target.sum()),
        "masked_ce": (nll.detach().sum(), counted.sum()),
    }
    return Term("mdm", loss, metrics)
