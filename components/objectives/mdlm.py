"""MDLM: "Simple and Effective Masked Diffusion Language Models", arXiv 2406.07524, equation 10.

    L = E_t [ w(t) * sum over masked l of -log f_l(x_l | z_t) ],   w = -alpha' / (1 - alpha)

One time a row, stratified over the global batch. The sum is later divided by the number of target
positions, not of masked ones. Unlike the released code, logits are computed at masked positions
only: the others have no loss and no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from components.diffusion.corrupt import mask_tokens
from components.objectives.base import Batch, Network, Objective, Setting, Term, corruption, draw_times, flat_index
from components.objectives.config import MdlmConfig
from components.objectives.fills import logits_at


@dataclass(frozen=True)
class Noised:
    """Rows z_t of a batch, each masked at a time of its own."""

    batch: Batch
    time: Float32[Tensor, "B"]
    masked: Bool[Tensor, "B L"]
    tokens: Int64[Tensor, "B L"]
    """The clean ones, and the mask where masked."""


def build(config: MdlmConfig, setting: Setting) -> Objective[Noised]:
    """The objective with its options bound."""

    def corrupt(batch: Batch) -> Noised:
        return noise_rows(batch, setting)

    def counts(noised: Noised) -> dict[str, Tensor]:
        return {"mdm": noised.batch.target.sum()}

    def terms(network: Network, noised: Noised) -> Iterator[Term]:
        logits = logits_at(network, noised.tokens, noised.masked, noised.batch, setting, time=noised.time)
        yield unmasking_term(logits, flat_index(noised.masked), noised, setting, flat=config.weight == "flat")

    return Objective(corrupt, counts, terms)


def noise_rows(batch: Batch, setting: Setting) -> Noised:
    """One noisy version of each row, at a stratified time."""
    time = draw_times(batch, setting.t_min)
    keep = setting.schedule.alpha(time)
    tokens, masked = mask_tokens(batch.tokens, batch.maskable, keep, corruption(batch), setting.mask_id)
    return Noised(batch, time, masked, tokens)


def unmasking_term(
    logits: Float[Tensor, "N V"], select: Int64[Tensor, "N"], noised: Noised, setting: Setting, flat: bool
) -> Term:
    """The masked-diffusion sum.

    Args:
        logits: at masked positions, mask id suppressed.
        select: flat indices of these positions.
        flat: weigh every time alike, and not by w(t).
    """
    batch, time = noised.batch, noised.time
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
