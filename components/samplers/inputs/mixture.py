"""Soft inputs: mixture of inputs ("Text Generation Beyond Discrete Token Sampling", arXiv 2505.14827) on written
tokens, and soft masks ("Soft-Masked Diffusion Language Models", arXiv 2510.17206) on masked ones.

With H the entropy of the predicted p over its largest value, log(V - 1) since the mask is never predicted, in [0, 1]:

    written y:   w = (H p + (beta + 1 - H) y) / (beta + 1), p as it was when y was drawn
    masked:      w = ((1 - H) p + (beta + H) mask) / (beta + 1)

At a mask the sign turns: the more uncertain, the more mask. With the formula of written tokens there, a
blurred average would be fed exactly where p knows nothing. Only the k best tokens are kept, renormalised;
[R, L, V] is never stored. beta = infinity is hard decoding. The soft share fades over the ticks, to (1/T)^fade at the last of
T; the corrector's passes see hard drafts, and a likelihood never sees either.

A mask keeps p of the call that its tick was drawn from. With ProSeCo's corrector that is the loop's last pass, which said
it of a full draft: Algorithm 3 puts those logits in the place of the predictor's, and soft masks feed back what the last
step said. (A network trained on soft masks met the predictor's p there.)

Departure: the papers mix at every position of their kind; here the distribution is the one stored at the
commit, because the current output at a written position is unsupervised in a mask-only network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from components.samplers.contract import Extras
from components.samplers.inputs.base import Hard, Mixture
from components.samplers.options.inputs import MixtureConfig, SoftMaskConfig
from components.samplers.owners import Start
from components.samplers.state import Field, State, Written
from components.samplers.view import View


class Soft(Hard):
    """Mixtures of the hard token and k stored ones, with their weights."""

    def __init__(self, config: MixtureConfig | SoftMaskConfig, extras: Extras):
        self.beta, self.top_k, self.fade = config.beta, config.top_k, config.fade

    def begin(self, start: Start) -> dict[str, Field]:
        shape, device = (*start.canvas.shape, self.top_k), start.canvas.device
        return {
            "soft_ids": Field(torch.zeros(shape, dtype=torch.int64, device=device)),
            "soft_weights": Field(torch.zeros(shape, device=device), reset=0.0),
        }

    def encode(self, state: State, shown: Tensor, steps: int) -> tuple[Mixture | None, Tensor | None]:
        left = (1 - (state.tick - 1) / steps).clamp(min=0) ** self.fade
        share = torch.where(state.inner == 0, left, 0)
        weights = state["soft_weights"] * share[:, None, None]
        hard = 1 - weights.sum(-1, keepdim=True)
        ids = torch.cat([shown[..., None], state["soft_ids"]], dim=-1)
        return (ids, torch.cat([hard, weights], dim=-1)), None

    def store(self, state: State, view: View, where: Tensor, clear: Tensor, strength: Tensor) -> dict[str, Tensor]:
        """Keep strength p / (beta + 1) of the k best tokens at ``where``, and forget what was kept at ``clear``."""
        p = view.top_probabilities
        p = p / p.sum(-1, keepdim=True).clamp(min=1e-12)
        fresh = p * (strength / (self.beta + 1))[..., None]
        weights = state["soft_weights"].masked_fill(clear[..., None], 0)
        return {
            "soft_ids": torch.where(where[..., None], view.top_ids, state["soft_ids"]),
            "soft_weights": torch.where(where[..., None], fresh.float(), weights),
        }


def uncertainty(view: View) -> Tensor:
    """H, the entropy of each predicted distribution over its largest possible value: [R, L] in [0, 1]."""
    return (view.entropy / math.log(max(view.logits.shape[-1] - 1, 2))).clamp(0, 1)


class MixtureOfInputs(Soft):
    """Mixture of inputs: written tokens stay mixed with what they were drawn from."""

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        return self.store(state, view, written.revealed, written.replaced, uncertainty(view))


class SoftMask(Soft):
    """Soft masks: masks are mixed with what the last call predicted there."""

    def wants(self, state: State, masked: Tensor) -> tuple[Tensor, Tensor]:
        return masked, masked

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        still = view.masked & ~written.revealed & view.called[:, None]
        return self.store(state, view, still, written.revealed, 1 - uncertainty(view))
