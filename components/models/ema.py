"""Exponential moving average of weights, over whatever pieces of them a rank owns.

Under ZeRO a rank owns flat pieces of the fp32 master weights; without it, the parameters themselves.
The average lives beside them piece by piece, so it costs the same share of memory at every stage.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Ema:
    """Averages of a list of tensors that an optimiser changes in place."""

    def __init__(self, masters: list[Tensor], decay: float):
        self.masters = masters
        self.decay = decay
        self.averages = [master.detach().clone() for master in masters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step number ``step`` (from 1). The decay is ramped as (1 + n) / (10 + n)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, self.masters, 1 - decay)
