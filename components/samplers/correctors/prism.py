"""PRISM's inference ("Fine-Tuning Masked Diffusion for Provable Self-Correction", arXiv 2510.01384).

At each tick of a window the r visible tokens of lowest quality are masked, and r more masks than planned
are revealed, so that the number of visible tokens keeps to the schedule; forgetting the "+ r" is the usual
bug. Quality is the head's estimate of p(x_i = y_i | the rest), read from the same call as the prediction.
r is fixed, or binomial with ReMDM's capped rate as in the released OWT sampler.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.diffusion import noise, select
from components.diffusion.noise import Stream
from components.samplers.correctors.base import Verdict, verdict
from components.samplers.correctors.worst import Swap, num_left_masked
from components.samplers.options.correctors import PrismConfig
from components.samplers.state import State
from components.samplers.view import View


class Prism(Swap):
    """See ``components.samplers.correctors.base.Corrector``."""

    def __init__(self, config: PrismConfig):
        super().__init__(config.score)
        self.config = config

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        total = state["num_ticks"].double()
        return (state.tick > self.config.start * total) & (state.tick <= self.config.stop * total)

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        score, fields = self.score.measure(state, view)
        visible = view.changeable & (due & view.called)[:, None]
        count = torch.minimum(self.num_remasked(state, visible), num_left_masked(view))
        return verdict(state, remask=select.best(-score, visible, count), urgency=-score, fields=fields)

    def num_remasked(self, state: State, visible: Tensor) -> Tensor:
        """r [R]: tokens to mask at the tick of each row."""
        if not self.config.eta:
            return torch.full_like(state.tick, self.config.num_remasked)
        total = state["num_ticks"]
        after = (1 - state.tick / total).clamp(min=0)
        largest = (after / ((state.tick - 1) / total).clamp(min=1e-9)).clamp(max=1)
        sigma = largest.clamp(max=self.config.eta)[:, None]
        u = noise.uniform(state.keys, state.tick, 0, visible.shape[1], Stream.REMASK_COUNT)
        return (visible & (u < sigma)).sum(-1)
