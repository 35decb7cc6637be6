"""Soft inputs in training ("Soft-Masked Diffusion Language Models", arXiv 2510.17206): a wrapper of other objectives.

A first pass without gradient says what it expects at each mask; the second sees that mixture,

    w = ((1 - H) p + (beta + H) mask) / (beta + 1),   p the k best, H their entropy over log V,

in a share of the rows and hard masks in the rest. Weights as at sampling (``samplers/mixture``); the paper learns
them. Only the first pass of an objective is softened: what follows are a corrector's drafts, which have no masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from components.diffusion.categorical import suppress
from components.diffusion.noise import Stream
from components.objectives.base import Batch, Network, Objective, Setting, Term, one_uniform
from components.objectives.config import SoftMaskConfig


@dataclass(frozen=True)
class PartlySoft:
    """What the wrapped objective's noise made of a batch, and which of its rows are shown softly."""

    base: Any
    """Corrupted rows of the wrapped objective."""
    soft: Bool[Tensor, "B"]


def build(config: SoftMaskConfig, setting: Setting) -> Objective[PartlySoft]:
    """The objective with its options bound."""
    softened = config.softened()
    base: Objective[Any] = softened.load()(softened, setting)

    def corrupt(batch: Batch) -> PartlySoft:
        return PartlySoft(base.corrupt(batch), one_uniform(batch, Stream.MIX) < config.share)

    def counts(rows: PartlySoft) -> dict[str, Tensor]:
        return base.counts(rows.base)

    def terms(network: Network, rows: PartlySoft) -> Iterator[Term]:
        yield from base.terms(Softened(network, rows.soft, config, setting), rows.base)

    return Objective(corrupt, counts, terms)


class Softened:
    """A network whose first call shows mixtures at the masks of some rows; later calls are passed on as they are."""

    def __init__(self, network: Network, soft: Bool[Tensor, "B"], config: SoftMaskConfig, setting: Setting):
        """``soft`` are the rows that are shown mixtures."""
        self.network, self.soft, self.config, self.setting = network, soft, config, setting
        self.first = True

    def __call__(self, tokens: Tensor, **given: Any) -> Any:
        if not self.first:
            return self.network(tokens, **given)
        self.first = False
        masked = tokens == self.setting.mask_id
        with torch.no_grad():
            first = self.network(tokens, **{k: v for k, v in given.items() if k in ("label", "time", "sizes")})
            mixture = self.mixture(tokens, masked & self.soft[:, None], first.logits)
        return self.network(tokens, soft=mixture, **given)

    def decide(self, *given: Any) -> Tensor:
        return self.network.decide(*given)

    def mixture(
        self, tokens: Int64[Tensor, "B L"], where: Bool[Tensor, "B L"], logits: Float[Tensor, "B L V"]
    ) -> tuple[Int64[Tensor, "B L K"], Float[Tensor, "B L K"]]:
        """What is shown: K = top_k + 1 token ids at each position, the hard token first, and their weights."""
        p = torch.softmax(suppress(logits, (self.setting.mask_id,)), -1)
        entropy = -torch.special.xlogy(p, p).sum(-1) / math.log(p.shape[-1])
        best, ids = p.topk(min(self.config.top_k, p.shape[-1]), -1)
        strength = torch.where(where, (1 - entropy) / (self.config.beta + 1), 0.0)
        weights = best / best.sum(-1, keepdim=True) * strength[..., None]
        return (
            torch.cat([tokens[..., None], ids], -1),
            torch.cat([1 - weights.sum(-1, keepdim=True), weights], -1),
        )
