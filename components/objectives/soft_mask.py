"""Soft inputs in training ("Soft-Masked Diffusion Language Models", arXiv 2510.17206): a wrapper around other objectives.

A first pass without gradient says what it expects at each mask; the second sees that mixture,

    w = ((1 - H) p + (beta + H) mask) / (beta + 1),   p the k best, H their entropy over log V,

in a share of the rows and hard masks in the rest. Weights as at sampling (``samplers/mixture``); the paper learns
them. Only the first pass of an objective is softened: what follows are a corrector's drafts, which have no masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from components.diffusion.categorical import suppress
from components.diffusion.noise import Stream
from components.models.denoiser import Prediction
from components.objectives.base import Batch, Network, Objective, Setting, Term, one_uniform
from components.objectives.config import SoftMaskConfig


def build(config: SoftMaskConfig, setting: Setting) -> Objective:
    """The objective with its options bound."""
    softened = config.softened()
    base: Objective = softened.load()(softened, setting)

    def terms(model: Network, batch: Batch) -> Iterator[Term]:
        soft = one_uniform(batch, Stream.MIX) < config.share
        yield from base.terms(Softened(model, soft, config, setting), batch)

    return Objective(base.counts, terms)


class Softened:
    """A network that is shown mixtures at the masks of the rows ``soft`` [B] bool."""

    def __init__(self, model: Network, soft: Tensor, config: SoftMaskConfig, setting: Setting):
        self.model, self.soft, self.config, self.setting = model, soft, config, setting
        self.first = True

    def __call__(self, tokens: Tensor, **given: Any) -> Prediction:
        if not self.first:
            return self.model(tokens, **given)
        self.first = False
        masked = tokens == self.setting.mask_id
        with torch.no_grad():
            first = self.model(tokens, **{k: v for k, v in given.items() if k in ("label", "time")})
            mixture = self.mixture(tokens, masked & self.soft[:, None], first.logits)
        return self.model(tokens, soft=mixture, **given)

    def mixture(self, tokens: Tensor, where: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(ids [B, L, k + 1], weights): the hard token first."""
        p = torch.softmax(suppress(logits, (self.setting.mask_id,)), -1)
        entropy = -torch.special.xlogy(p, p).sum(-1) / math.log(p.shape[-1])
        best, ids = p.topk(min(self.config.top_k, p.shape[-1]), -1)
        strength = torch.where(where, (1 - entropy) / (self.config.beta + 1), 0.0)
        weights = best / best.sum(-1, keepdim=True) * strength[..., None]
        return (
            torch.cat([tokens[..., None], ids], -1),
            torch.cat([1 - weights.sum(-1, keepdim=True), weights], -1),
        )
