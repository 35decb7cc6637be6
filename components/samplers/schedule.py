"""Schedules: how much is revealed by when. Each works for all rows at once on its own fields."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.samplers.config import AncestralConfig, FixedCountConfig
from components.samplers.state import State


class Schedule(Protocol):
    """A part of a sampler. ``steps`` is T; ticks are 1..T."""

    picks_positions: bool
    """True: it names positions before the network is asked. False: it gives a count a tick."""
    ends_when_full: bool
    """A row without masks is finished, even if ticks are left."""

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        """Fields to register. masked: [R, L] bool."""

    def positions(self, state: State, masked: Tensor) -> Tensor:
        """[R, L] bool: positions of the current tick (all candidates, where counts decide)."""

    def count(self, state: State) -> Tensor:
        """[R]: how many of them."""

    def next_event(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """[R]: the first tick at or after the current one at which something is revealed; T + 1 if none."""


class Ancestral:
    """MDLM's ancestral sampler (arXiv 2406.07524), decoupled.

    With a linear grid t_k from 1 to t_end a masked position survives tick k with probability
    t_k / t_(k-1), whatever the network says; so its tick is drawn ahead from one uniform: the first
    k with 1 - t_k > u. Rows without an event at a tick need no call there. The law is the same; the
    released code spends a call at every tick and draws "stay masked" and the token in one float32 race.
    """

    picks_positions = True
    ends_when_full = False

    def __init__(self, config: AncestralConfig):
        self.t_end = config.t_end

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        u = noise.uniform(keys, 0, 0, masked.shape[1], Stream.REVEAL)
        tick = torch.floor(u * steps / (1 - self.t_end)).long() + 1
        return {"reveal_tick": torch.where(masked, tick.clamp(max=steps + 1), steps + 1)}

    def positions(self, state: State, masked: Tensor) -> Tensor:
        return masked & (state.parts["reveal_tick"] == state.tick[:, None])

    def count(self, state: State) -> Tensor:
        return torch.full_like(state.tick, state.tokens.shape[1])

    def next_event(self, state: State, masked: Tensor, steps: int) -> Tensor:
        ticks = state.parts["reveal_tick"]
        return torch.where(masked & (ticks >= state.tick[:, None]), ticks, steps + 1).amin(-1)


class FixedCount:
    """An even split of the masked positions over the ticks, the remainder to the first ones (LLaDA)."""

    picks_positions = False
    ends_when_full = True

    def __init__(self, config: FixedCountConfig):
        del config

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        total = masked.sum(-1)
        return {"even": total // steps, "remainder": total % steps}

    def positions(self, state: State, masked: Tensor) -> Tensor:
        return masked

    def count(self, state: State) -> Tensor:
        return state.parts["even"] + (state.tick <= state.parts["remainder"]).long()

    def next_event(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return torch.where((self.count(state) > 0) & masked.any(-1), state.tick, steps + 1)
