"""Schedules that look at the prediction to decide how much to reveal, and the one that waits for the end."""

from __future__ import annotations

import torch
from torch import Tensor

from components.diffusion import select
from components.samplers.contract import Extras
from components.samplers.correctors.base import Corrector
from components.samplers.options.schedules import EntropyBoundConfig, FactorConfig, ThresholdConfig
from components.samplers.schedules.base import Base
from components.samplers.state import State
from components.samplers.view import View


class Threshold(Base):
    """Everything as confident as a threshold or more, and always the first in order (Fast-dLLM, arXiv 2505.22618)."""

    def __init__(self, config: ThresholdConfig, corrector: Corrector, extras: Extras):
        self.threshold = config.threshold

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        first = select.best(score, candidates, torch.ones_like(state.tick))
        return first | (candidates & (view.confidence >= self.threshold))

    def choose(
        self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is revealed, and what a policy that imitates it needs: confidence c, masked m, action u [R, L], time
        t [R]."""
        action = self.reveal(state, candidates, score, view, count)
        confidence = torch.where(candidates, view.confidence, 0)
        time = ((state.tick - 1) / candidates.shape[1]).clamp(max=1).float()
        return action, {"c": confidence, "m": candidates, "t": time, "u": action.float()}


class Factor(Base):
    """Fast-dLLM's factor rule (arXiv 2505.22618): n tokens are written together while (n + 1)(1 - c_n) < f."""

    reads = frozenset({"log_odds"})

    def __init__(self, config: FactorConfig, corrector: Corrector, extras: Extras):
        self.factor = config.factor

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        ordered = view.confidence.masked_fill(~candidates, -1).sort(dim=-1, descending=True).values
        n = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
        passes = ((n + 1) * (1 - ordered) < self.factor) & (ordered >= 0)
        return select.best(view.log_odds, candidates, (passes * n).amax(-1).clamp(min=1))


class EntropyBound(Base):
    """EB-Sampler (arXiv 2505.24857): the longest prefix in order with sum H - max H <= gamma."""

    reads = frozenset({"entropy"})

    def __init__(self, config: EntropyBoundConfig, corrector: Corrector, extras: Extras):
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
