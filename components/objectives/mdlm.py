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
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from components.diffusion.corrupt import mask_tokens
from components.models.judging import Judged
from components.objectives.base import Batch, Network, Objective, Setting, Term, corruption, draw_times
from components.objectives.config import MdlmConfig
from components.objectives.fills import judged_at


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
        weight = unmasking_weight(noised, setting, flat=config.weight == "flat")
        judged = judged_at(network, noised.tokens, noised.masked, weight, noised.batch, setting, time=noised.time)
        yield unmasking_term(judged, noised)

    return Objective(corrupt, counts, terms)


def noise_rows(batch: Batch, setting: Setting) -> Noised:
    """One noisy version of each row, at a stratified time."""
    time = draw_times(batch, setting.t_min)
    keep = setting.schedule.alpha(time)
    tokens, masked = mask_tokens(batch.tokens, batch.maskable, keep, corruption(batch), setting.mask_id)
    return Noised(batch, time, masked, tokens)


def time_weight(time: Float32[Tensor, "B"], setting: Setting, flat: bool) -> Float32[Tensor, "B"]:
    """w(t), or 1 where every time weighs alike."""
    return torch.ones_like(time) if flat else setting.schedule.weight(time)


def unmasking_weight(noised: Noised, setting: Setting, flat: bool = False) -> Float32[Tensor, "B L"]:
    """Of the loss at a masked position: that of its row's time, where the loss counts."""
    return time_weight(noised.time, setting, flat)[:, None] * noised.batch.target


def unmasking_term(judged: Judged, noised: Noised) -> Term:
    """The masked-diffusion sum, of what was judged at the masked positions by ``unmasking_weight``."""
    counted = noised.batch.target[noised.masked]
    metrics = {
        "nll_bound": (judged.loss_sum.detach(), noised.batch.target.sum()),
        "masked_ce": ((judged.nll * counted).sum(), counted.sum()),
    }
    return Term("mdm", judged.loss_sum, metrics)
