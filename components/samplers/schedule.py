"""Schedules: how much is revealed by when. Each works for all rows at once on its own fields."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from components.diffusion import noise, select
from components.diffusion.noise import Stream
from components.samplers import config as options
from components.samplers.contract import Extras
from components.samplers.corrector import Corrector
from components.samplers.state import State
from components.samplers.view import View


class Schedule(Protocol):
    """A part of a sampler. ``steps`` is T; ticks are 1..T. ``window`` [R, L] are the masks of the active block."""

    ends_when_full: bool
    """A row without masks is finished, even if ticks are left."""
    counts: bool
    """It says how many, and the order says which."""
    reads: frozenset[str]
    """Fields of the view that it needs beside the confidence."""

    def times(self, steps: int, device: torch.device) -> Tensor:
        """The grid [T + 1] from 1 down, float64."""

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        """Fields to register. masked: [R, L] bool."""

    def enter(self, state: State, window: Tensor, steps: int, num_blocks: Tensor) -> dict[str, Tensor]:
        """Fields of rows that begin a block."""

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        """[R, L] bool: masked positions that may be revealed at this tick."""

    def quota(self, state: State, window: Tensor, steps: int) -> Tensor:
        """[R]: how many of them; 0 where it does not count."""

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        """[R, L] bool: those that are. ``count`` [R] is the quota and what the corrector took back."""

    def decide(
        self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, and what a policy learns from."""

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        """[R]: the first tick at or after the current one at which something may be revealed; T + 1 if none."""

    def forget(self, state: State, masked: Tensor, remasked: Tensor, steps: int) -> dict[str, Tensor]:
        """Fields after positions [R, L] were masked again at the state's tick; ``masked`` were so before."""

    def time(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """[R]: t, for networks that read it."""


class Base:
    """What most schedules have in common."""

    ends_when_full = True
    counts = False
    reads: frozenset[str] = frozenset()

    def __init__(self, config: object, corrector: Corrector, extras: Extras):
        del config, corrector, extras

    def times(self, steps: int, device: torch.device) -> Tensor:
        return 1 - torch.arange(steps + 1, dtype=torch.float64, device=device) / steps

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        return {}

    def enter(self, state: State, window: Tensor, steps: int, num_blocks: Tensor) -> dict[str, Tensor]:
        return {}

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        return window

    def quota(self, state: State, window: Tensor, steps: int) -> Tensor:
        return torch.zeros_like(state.tick)

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        return select.best(score, candidates, count)

    def decide(
        self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.reveal(state, candidates, score, view, count), {}

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        return torch.where(window.any(-1), state.tick, steps + 1)

    def forget(self, state: State, masked: Tensor, remasked: Tensor, steps: int) -> dict[str, Tensor]:
        return {}

    def time(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return (1 - (state.tick - 1) / steps).clamp(min=0).float()


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

    def __init__(self, config: options.AncestralConfig, corrector: Corrector, extras: Extras):
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

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        _, hazard = self.table(steps, masked.device)
        u = noise.uniform(keys, 0, 0, masked.shape[1], Stream.REVEAL)
        tick = torch.searchsorted(hazard, -torch.log1p(-u), right=True) + 1
        return {"reveal_tick": torch.where(masked, tick, steps + 1)}

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        return window & (state.parts["reveal_tick"] == state.tick[:, None])

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        return candidates

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        ticks = state.parts["reveal_tick"]
        return torch.where(window & (ticks >= state.tick[:, None]), ticks, steps + 1).amin(-1)

    def forget(self, state: State, masked: Tensor, remasked: Tensor, steps: int) -> dict[str, Tensor]:
        _, hazard = self.table(steps, remasked.device)
        spent = torch.where(state.tick > 0, hazard[(state.tick - 1).clamp(0, steps - 1)], 0.0)[:, None]
        u = noise.uniform(state.keys, state.tick, 0, remasked.shape[1], Stream.REVEAL)
        tick = torch.searchsorted(hazard, spent - torch.log1p(-u), right=True) + 1
        tick = torch.maximum(tick, state.tick[:, None] + 1).clamp(max=steps + 1)
        return {"reveal_tick": torch.where(remasked, tick, state.parts["reveal_tick"])}

    def time(self, state: State, masked: Tensor, steps: int) -> Tensor:
        share, _ = self.table(steps, state.tick.device)
        return share[(state.tick - 1).clamp(0, steps)].float()


class FirstHitting(Base):
    """The first-hitting sampler (arXiv 2409.02908): one call a reveal, the law of infinitely many ticks.

    Each masked position has a time of its own, uniform in (0, 1), drawn ahead; the latest is revealed
    first. The largest of n uniforms below tau is tau u^(1/n), which is how the paper draws it.
    """

    def __init__(self, config: options.FirstHittingConfig, corrector: Corrector, extras: Extras):
        self.per_call = config.per_call

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        return {"hit_time": 1 - noise.uniform(keys, 0, 0, masked.shape[1], Stream.REVEAL)}

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        return select.best(state.parts["hit_time"], window, torch.full_like(state.tick, self.per_call))

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        return candidates

    def forget(self, state: State, masked: Tensor, remasked: Tensor, steps: int) -> dict[str, Tensor]:
        u = noise.uniform(state.keys, state.tick, 0, remasked.shape[1], Stream.REVEAL)
        times = state.parts["hit_time"]
        last = torch.where(masked | state.fixed, 1.0, times).amin(-1, keepdim=True)
        return {"hit_time": torch.where(remasked, u * last, times)}

    def time(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """The time at which the next position is hit: the network sees the row just before it."""
        return torch.where(masked, state.parts["hit_time"], 0).amax(-1).float()


class FixedCount(Base):
    """The same number at every tick: an even split, the remainder first (LLaDA), or so many until none is left."""

    counts = True

    def __init__(self, config: options.FixedCountConfig, corrector: Corrector, extras: Extras):
        self.per_call = config.per_call

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        zeros = torch.zeros_like(keys[:, 0])
        return {"even": zeros, "remainder": zeros, "since": zeros}

    def enter(self, state: State, window: Tensor, steps: int, num_blocks: Tensor) -> dict[str, Tensor]:
        total, ticks = window.sum(-1), (steps // num_blocks.clamp(min=1)).clamp(min=1)
        return {"even": total // ticks, "remainder": total % ticks, "since": state.tick}

    def quota(self, state: State, window: Tensor, steps: int) -> Tensor:
        if self.per_call:
            return torch.full_like(state.tick, self.per_call)
        place = state.tick - state.parts["since"]
        return state.parts["even"] + (place < state.parts["remainder"]).long()

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        return torch.where((self.quota(state, window, steps) > 0) & window.any(-1), state.tick, steps + 1)


class Remaining(Base, ABC):
    """So many masks stay after each tick, whatever was taken back: MaskGIT's cosine, Mask-Predict's line."""

    counts = True

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        return {"total": masked.sum(-1)}

    @abstractmethod
    def share(self, progress: Tensor) -> Tensor:
        """Share that stays masked at progress s/T in [0, 1]."""

    def quota(self, state: State, window: Tensor, steps: int) -> Tensor:
        progress = (state.tick.double() / steps).clamp(max=1)
        stay = torch.floor(state.parts["total"] * self.share(progress) + 1e-9).long()
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


class Threshold(Base):
    """Everything more confident than a threshold, and always the first in order (Fast-dLLM, arXiv 2505.22618)."""

    def __init__(self, config: options.ThresholdConfig, corrector: Corrector, extras: Extras):
        self.threshold = config.threshold

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        first = select.best(score, candidates, torch.ones_like(state.tick))
        return first | (candidates & (view.confidence > self.threshold))

    def decide(
        self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """With what a policy that imitates it needs: confidence c, masked m, action u [R, L], time t [R]."""
        action = self.reveal(state, candidates, score, view, count)
        confidence = torch.where(candidates, view.confidence, 0)
        time = ((state.tick - 1) / candidates.shape[1]).clamp(max=1).float()
        return action, {"c": confidence, "m": candidates, "t": time, "u": action.float()}


class Factor(Base):
    """Fast-dLLM's factor rule (arXiv 2505.22618): n tokens are written together while (n + 1)(1 - c_n) < f."""

    def __init__(self, config: options.FactorConfig, corrector: Corrector, extras: Extras):
        self.factor = config.factor

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        ordered = view.confidence.masked_fill(~candidates, -1).sort(dim=-1, descending=True).values
        n = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
        passes = ((n + 1) * (1 - ordered) < self.factor) & (ordered >= 0)
        return select.best(view.confidence, candidates, (passes * n).amax(-1).clamp(min=1))


class EntropyBound(Base):
    """EB-Sampler (arXiv 2505.24857): the longest prefix in order with sum H - max H <= gamma."""

    reads = frozenset({"entropy"})

    def __init__(self, config: options.EntropyBoundConfig, corrector: Corrector, extras: Extras):
        self.gamma = config.gamma

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        order = score.masked_fill(~candidates, float("-inf")).argsort(dim=-1, descending=True, stable=True)
        entropy = view.entropy.gather(-1, order)
        inside = candidates.gather(-1, order)
        entropy = torch.where(inside, entropy, 0)
        joint = entropy.cumsum(-1) - entropy.cummax(-1).values
        # The first is always taken: alone it costs nothing, but for the last bits of the sums.
        number = (inside & (joint <= self.gamma)).sum(-1).clamp(min=1)
        return select.best(score, candidates, number)


class AtEnd(Base):
    """Nothing before the last tick, then everything."""

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        return window & (state.tick >= steps)[:, None]

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        return candidates

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        return torch.where(window.any(-1), state.tick.clamp(min=steps), steps + 1)
