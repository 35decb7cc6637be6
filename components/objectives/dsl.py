"""DSL: "Discrete Stochastic Localization", arXiv 2602.16169.

    z_i = gamma_i e(x_i) + sqrt(gamma_i) eps,   |e(v)| = 1;    L = mean over all i of -log f_i(x_i | z)

Plain cross-entropy of the clean token at every position, with no weight over time; the network gets no time. With
unit norms the posterior depends on z alone, so one network serves every path of signal-to-noise ratios: masks are
gamma = 0, written tokens gamma_max. A row's gamma is lognormal; in a share of rows ("ROAR") k of the L tokens, k uniform below L, are
seen at gamma_max and the rest not at all, as discrete samplers will show them. Prompts are seen without noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from components.diffusion import noise
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
)
from components.objectives.config import DslConfig
from components.objectives.fills import judged_at, keep_best


@dataclass(frozen=True)
class Evidence:
    """What is added to the embeddings of a batch."""

    batch: Batch
    gamma: Float32[Tensor, "B L"]
    """Signal-to-noise ratio."""
    eps: Float32[Tensor, "B L D"]
    """Standard normal noise, 0 in prompts."""


def build(config: DslConfig, setting: Setting) -> Objective[Evidence]:
    """The objective with its options bound."""

    def corrupt(batch: Batch) -> Evidence:
        length = batch.tokens.shape[1]
        eps = noise.normal(batch.keys, batch.step, length * config.noise_dim, Stream.EVIDENCE_NOISE)
        eps = eps.view(-1, length, config.noise_dim).float() * batch.maskable[..., None]
        return Evidence(batch, ratios(batch, config), eps)

    def counts(evidence: Evidence) -> dict[str, Tensor]:
        return {"clean": evidence.batch.target.sum()}

    def terms(network: Network, evidence: Evidence) -> Iterator[Term]:
        batch, gamma = evidence.batch, evidence.gamma
        where = batch.target
        judged = judged_at(network, batch.tokens, where, where.float(), batch, setting, evidence=(gamma, evidence.eps))
        unseen = (gamma == 0)[where]
        metrics = {
            "clean_ce": (judged.nll.sum(), where.sum()),
            "unseen_ce": (judged.nll[unseen].sum(), unseen.sum()),
        }
        yield Term("clean", judged.loss_sum, metrics)

    return Objective(corrupt, counts, terms)


def ratios(batch: Batch, config: DslConfig) -> Float32[Tensor, "B L"]:
    """gamma, the signal-to-noise ratio of each position: one for the row, or gamma_max at some and 0 at the others."""
    z = torch.special.ndtri(one_uniform(batch, Stream.EVIDENCE))
    row = torch.exp(config.log_mean + config.log_std * z).clamp(max=config.gamma_max)
    size = batch.maskable.sum(-1)
    number = torch.minimum((draw_times(batch, 0.0) * size).long(), (size - 1).clamp(min=0))
    seen = keep_best(batch.maskable, number, corruption(batch))
    discrete = one_uniform(batch, Stream.MIX) < config.roar_share
    gamma = torch.where(discrete[:, None], torch.where(seen, config.gamma_max, 0.0), row[:, None])
    return torch.where(batch.maskable, gamma, config.gamma_max).float()
