"""Schedules that say how many positions a tick reveals, and leave the choice to the order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from components.samplers.contract import Extras
from components.samplers.correctors.base import Corrector
from components.samplers.options.schedules import FixedCountConfig
from components.samplers.owners import Start
from components.samplers.schedules.base import Base
from components.samplers.state import Field, State


class FixedCount(Base):
    """The same number at every tick: an even split, the remainder first (LLaDA), or so many until none is left."""

    def __init__(self, config: FixedCountConfig, corrector: Corrector, extras: Extras):
        self.per_call = config.per_call

    def num_ticks(self, num_masks: Tensor, steps: int) -> Tensor:
        return num_masks.clamp(max=steps) if not self.per_call else super().num_ticks(num_masks, steps)

    def begin(self, start: Start) -> dict[str, Field]:
        zeros = torch.zeros_like(start.keys[:, 0])
        return {"even": Field(zeros), "remainder": Field(zeros), "since": Field(zeros)}

    def enter(self, state: State, window: Tensor, steps: int, num_blocks: Tensor) -> dict[str, Tensor]:
        total, ticks = window.sum(-1), (steps // num_blocks.clamp(min=1)).clamp(min=1)
        return {"even": total // ticks, "remainder": total % ticks, "since": state.tick}

    def quota(self, state: State, window: Tensor, steps: int) -> Tensor:
        if self.per_call:
            return torch.full_like(state.tick, self.per_call)
        since = state.tick - state["since"]
        return state["even"] + (since < state["remainder"]).long()

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        return torch.where((self.quota(state, window, steps) > 0) & window.any(-1), state.tick, steps + 1)


class Remaining(Base, ABC):
    """So many masks stay after each tick, whatever was taken back: MaskGIT's cosine, Mask-Predict's line."""

    def begin(self, start: Start) -> dict[str, Field]:
        return {"total": Field(start.masked.sum(-1))}

    @abstractmethod
    def share(self, progress: Tensor) -> Tensor:
        """Share that stays masked at progress s/T in [0, 1]."""

    def quota(self, state: State, window: Tensor, steps: int) -> Tensor:
        progress = (state.tick.double() / steps).clamp(max=1)
        stay = torch.floor(state["total"] * self.share(progress) + 1e-9).long()
        stay = torch.where(state.tick >= steps, 0, stay.clamp(min=1))
        return (window.sum(-1) - stay).clamp(min=0)


class Cosine(Remaining):
    """MaskGIT (arXiv 2202.04200)."""

    def share(self, progress: Tensor) -> Tensor:
        return torch.cos(math.pi / 2 * progress)


class Linear(Remaining):
    """Mask-Predict (arXiv 1904.09324)."""

    def share(self, progress: Tensor) -> Tensor:
        return 1 - progress
