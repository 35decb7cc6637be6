"""Training-free correction ("Training-Free Self-Correction for Multimodal Masked Diffusion Models",
arXiv 2602.02927), and its control.

In the middle and late part of sampling the r tokens of lowest score are masked and r more fresh tokens
stay, so that the number of masks after every tick is the schedule's and the number of calls does not
change. The paper's r is 16, 8 and 4 tokens of 4,096 at 64 ticks, a quarter, an eighth and a sixteenth of the
mean number of reveals; here it is given as those shares.

Departures from the released code: the tick at which a phase begins both reveals more and masks (there one
reveals r tokens too many where 0.4 T is whole); r is never more than there are visible tokens; rows of a
batch are independent. ``RandomSwap`` is the same with random tokens: remasking anything gives extra reveals
late, when context is better, and part of every gain is that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.diffusion import select
from components.samplers.correctors.base import Verdict, verdict
from components.samplers.correctors.worst import Swap, num_left_masked
from components.samplers.options.correctors import FreeCorrectionConfig, RandomSwapConfig
from components.samplers.owners import Start
from components.samplers.state import Field, State
from components.samplers.view import View


class FreeCorrection(Swap):
    """See ``components.samplers.correctors.base.Corrector``."""

    def __init__(self, config: FreeCorrectionConfig | RandomSwapConfig):
        super().__init__(config.score)
        self.phases = list(zip(config.starts, config.shares, strict=True))

    def begin(self, start: Start) -> dict[str, Field]:
        return super().begin(start) | {"reveals_per_tick": Field(start.masked.sum(-1) / start.num_ticks.clamp(min=1))}

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        total = state["num_ticks"].double()
        return (state.tick > self.phases[0][0] * total) & (state.tick < total)

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        score, fields = self.score.measure(state, view)
        visible = view.changeable & (due & view.called)[:, None]
        count = torch.minimum(self.num_swaps(state), num_left_masked(view))
        return verdict(state, remask=select.best(-score, visible, count), urgency=-score, fields=fields)

    def num_swaps(self, state: State) -> Tensor:
        """r [R]: tokens that are masked, and as many more revealed, at the tick of each row."""
        share = torch.zeros_like(state["reveals_per_tick"])
        for start, value in self.phases:
            share = torch.where(state.tick > start * state["num_ticks"].double(), value, share)
        return (share * state["reveals_per_tick"]).round().long().clamp(min=1)
