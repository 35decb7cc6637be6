"""Schedules whose times are drawn ahead, independent of the network, and which reach the exact law."""

from __future__ import annotations

import torch
from torch import Tensor

from components.diffusion import noise, select
from components.diffusion.noise import Stream
from components.samplers.contract import Extras
from components.samplers.correctors.base import Corrector
from components.samplers.options.schedules import AncestralConfig, FirstHittingConfig
from components.samplers.owners import Start
from components.samplers.schedules.base import Base
from components.samplers.state import Field, State
from components.samplers.view import View


class Ancestral(Base):
    """MDLM's ancestral sampler (arXiv 2406.07524), decoupled.

    A masked position is revealed at tick k with a probability h_k that does not depend on the
    network: (t_(k-1) - t_k) / t_(k-1) on the grid t from 1 to t_end, or what a remasking corrector
    makes of it. So its tick is drawn ahead from one uniform: the first k with
    sum_(j <= k) -log(1 - h_j) > -log(1 - u), and drawn anew, from there on, when it is remasked.
    Rows without an event at a tick need no call there. The law is the same; the released code spends
    a call at every tick and draws "stay masked" and the token in one float32 race.
    """

    ends_when_full = False

    def __init__(self, config: AncestralConfig, corrector: Corrector, extras: Extras):
        self.t_end = config.t_end
        self.corrector = corrector
        self.tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def times(self, steps: int, device: torch.device) -> Tensor:
        return 1 - torch.arange(steps + 1, dtype=torch.float64, device=device) * (1 - self.t_end) / steps

    def table(self, steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(masked share before each tick and after the last [T + 1], cumulative hazard [T]), float64."""
        if (steps, device) not in self.tables:
            share, sigma = self.corrector.pace(self.times(steps, device))
            kept_before, kept_after = 1 - share[:-1], 1 - share[1:]
            hazard = (kept_after - (1 - sigma) * kept_before) / share[:-1].clamp(min=1e-300)
            # A hazard of 1 would make the sum infinite, and every later draw with it.
            self.tables[steps, device] = share, torch.cumsum(-torch.log1p(-hazard.clamp(0, 1 - 1e-12)), 0)
        return self.tables[steps, device]

    def begin(self, start: Start) -> dict[str, Field]:
        masked, steps = start.masked, start.steps
        _, hazard = self.table(steps, masked.device)
        u = noise.uniform(start.keys, 0, 0, masked.shape[1], Stream.REVEAL)
        tick = torch.searchsorted(hazard, -torch.log1p(-u), right=True) + 1
        return {"reveal_tick": Field(torch.where(masked, tick, steps + 1))}

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        return window & (state["reveal_tick"] == state.tick[:, None])

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        return candidates

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        ticks = state["reveal_tick"]
        return torch.where(window & (ticks >= state.tick[:, None]), ticks, steps + 1).amin(-1)

    def redraw(self, state: State, masked: Tensor, remasked: Tensor, steps: int) -> dict[str, Tensor]:
        _, hazard = self.table(steps, remasked.device)
        spent = torch.where(state.tick > 0, hazard[(state.tick - 1).clamp(0, steps - 1)], 0.0)[:, None]
        u = noise.uniform(state.keys, state.tick, 0, remasked.shape[1], Stream.REVEAL)
        tick = torch.searchsorted(hazard, spent - torch.log1p(-u), right=True) + 1
        tick = torch.maximum(tick, state.tick[:, None] + 1).clamp(max=steps + 1)
        return {"reveal_tick": torch.where(remasked, tick, state["reveal_tick"])}

    def time(self, state: State, masked: Tensor, steps: int) -> Tensor:
        share, _ = self.table(steps, state.tick.device)
        return share[(state.tick - 1).clamp(0, steps)].float()


class FirstHitting(Base):
    """The first-hitting sampler (arXiv 2409.02908): one call a reveal, the law of infinitely many ticks.

    Each masked position has a time of its own, uniform in (0, 1), drawn ahead; the latest is revealed
    first. The largest of n uniforms below tau is tau u^(1/n), which is how the paper draws it.
    """

    def __init__(self, config: FirstHittingConfig, corrector: Corrector, extras: Extras):
        self.per_call = config.per_call

    def begin(self, start: Start) -> dict[str, Field]:
        return {"hit_time": Field(1 - noise.uniform(start.keys, 0, 0, start.masked.shape[1], Stream.REVEAL))}

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        return select.best(state["hit_time"], window, torch.full_like(state.tick, self.per_call))

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        return candidates

    def redraw(self, state: State, masked: Tensor, remasked: Tensor, steps: int) -> dict[str, Tensor]:
        u = noise.uniform(state.keys, state.tick, 0, remasked.shape[1], Stream.REVEAL)
        times = state["hit_time"]
        last = torch.where(masked | state.fixed, 1.0, times).amin(-1, keepdim=True)
        return {"hit_time": torch.where(remasked, u * last, times)}

    def time(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """The time at which the next position is hit: the network sees the row just before it."""
        return torch.where(masked, state["hit_time"], 0).amax(-1).float()
