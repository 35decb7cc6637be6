"""Soft inputs: mixture of inputs ("Text Generation Beyond Discrete Token Sampling", arXiv 2505.14827) on written
tokens, and soft masks ("Soft-Masked Diffusion Language Models", arXiv 2510.17206) on masked ones.

With H the entropy of the predicted p over log V, in [0, 1]:

    written y:   w = (H p + (beta + 1 - H) y) / (beta + 1), p as it was when y was drawn
    masked:      w = ((1 - H) p + (beta + H) mask) / (beta + 1)

At a mask the sign turns: the more uncertain, the more mask. With the formula of written tokens there, a
blurred average would be fed exactly where p knows nothing. Only the k best tokens are kept, renormalised;
[R, L, V] is never stored. beta = infinity is hard decoding. The soft share fades to 0 over the ticks, the
corrector's passes see hard drafts, and a likelihood never sees either.

Departure: the papers mix at every position of their kind; here the distribution is the one stored at the
commit, because the current output at a written position is unsupervised in a mask-only network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from components.samplers.contract import Extras
from components.samplers.inputs.base import Hard, Mixture
from components.samplers.options.inputs import MixtureConfig, SoftMaskConfig
from components.samplers.state import State, Written
from components.samplers.view import View


class Soft(Hard):
    """Mixtures of the hard token and k stored ones, with their weights."""

    def __init__(self, config: MixtureConfig | SoftMaskConfig, extras: Extras):
        self.beta, self.top_k, self.fade = config.beta, config.top_k, config.fade

    def start(self, canvas: Tensor, fixed: Tensor) -> dict[str, Tensor]:
        shape = (*canvas.shape, self.top_k)
        return {
            "soft_ids": torch.zeros(shape, dtype=torch.int64, device=canvas.device),
            "soft_weights": torch.zeros(shape, device=canvas.device),
        }

    def encode(self, state: State, looked_at: Tensor, steps: int) -> tuple[Mixture | None, Tensor | None]:
        left = (1 - (state.tick - 1) / steps).clamp(min=0) ** self.fade
        share = torch.where(state.inner == 0, left, 0)
        weights = state.parts["soft_weights"] * share[:, None, None]
        hard = 1 - weights.sum(-1, keepdim=True)
        ids = torch.cat([looked_at[..., None], state.parts["soft_ids"]], dim=-1)
        return (ids, torch.cat([hard, weights], dim=-1)), None

    def store(self, state: State, view: View, where: Tensor, clear: Tensor, strength: Tensor) -> dict[str, Tensor]:
        """Keep strength p / (beta + 1) of the k best tokens at ``where``; nothing at ``clear``."""
        p = view.top_probabilities
        p = p / p.sum(-1, keepdim=True).clamp(min=1e-12)
        fresh = p * (strength / (self.beta + 1))[..., None]
        weights = state.parts["soft_weights"].masked_fill(clear[..., None], 0)
        return {
            "soft_ids": torch.where(where[..., None], view.top_ids, state.parts["soft_ids"]),
            "soft_weights": torch.where(where[..., None], fresh.float(), weights),
        }


def uncertainty(view: View) -> Tensor:
    """H [R, L] in [0, 1]."""
    return (view.entropy / math.log(view.logits.shape[-1])).clamp(0, 1)


class MixtureOfInputs(Soft):
    """On written tokens."""

    def update(self, state: State, written: Written, view: View, steps: int) -> dict[str, Tensor]:
        clear = written.replaced | written.remasked
        return self.store(state, view, written.revealed, clear, uncertainty(view))


class SoftMask(Soft):
    """On masks."""

    def wants(self, state: State, masked: Tensor) -> tuple[Tensor, Tensor]:
        return masked, masked

    def update(self, state: State, written: Written, view: View, steps: int) -> dict[str, Tensor]:
        still = view.masked & ~written.revealed & view.called[:, None]
        clear = written.revealed | written.remasked
        return self.store(state, view, still, clear, 1 - uncertainty(view))
