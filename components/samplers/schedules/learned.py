"""The learned unmasking policy at inference ("Learning Unmasking Policies for Diffusion Language Models",
arXiv 2512.09106).

A small network reads the confidence and the mask of every position and the time; each masked position of
the active block is revealed with probability s = min(1, beta sigmoid(b / tau)); where none is, the one of
largest b. Tokens are greedy in the paper: set ``draw.temperature`` to 0.

Departure: the probability of the fallback is that of both events that lead to it, pi(all zero) +
pi(one-hot at argmax), where the released code scores the one-hot as if it had been drawn. Confidence at
visible positions is given as 0; the mask tells them apart. Confidence is that of the token which would be written; drawn
greedily it is the largest, as published. With blocks, positions of later blocks are shown as the visible ones are, since they
can not be revealed either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.diffusion import noise, select
from components.diffusion.noise import Stream
from components.samplers.contract import Extras
from components.samplers.correctors.base import Corrector
from components.samplers.options.schedules import LearnedConfig
from components.samplers.schedules.base import Base
from components.samplers.state import State
from components.samplers.view import View


class Learned(Base):
    """See ``components.samplers.schedules.base.Schedule``."""

    def __init__(self, config: LearnedConfig, corrector: Corrector, extras: Extras):
        self.config = config
        self.policy = extras.policy

    def choose(
        self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is revealed, and c, m, u [R, L], t, logpi [R]: inputs, action, log-probability."""
        assert self.policy is not None, "the policy was asked for before the sampler was given one"
        confidence = torch.where(candidates, view.confidence, 0)
        time = ((state.tick - 1) / candidates.shape[1]).clamp(max=1).float()
        b = self.policy(confidence, candidates, time)
        coin = noise.uniform(state.keys, state.tick, 0, candidates.shape[1], Stream.POLICY)
        s = (self.config.scale * torch.sigmoid(b / self.config.temperature)).clamp(max=1)
        action = candidates & (coin < s)
        first = select.best(b, candidates, torch.ones_like(state.tick))
        action = torch.where(action.any(-1, keepdim=True), action, first)
        logpi = log_probability(b, candidates, action, self.config.temperature, self.config.scale)
        return action, {"c": confidence, "m": candidates, "t": time, "u": action.float(), "logpi": logpi}


def log_probability(b: Tensor, candidates: Tensor, action: Tensor, temperature: float, scale: float) -> Tensor:
    """log pi of a transition [R]: of the drawn set, plus, where that is the argmax alone, of drawing nothing.

    Args:
        b: logits [R, L]; candidates, action: [R, L] bool. Positions outside the candidates do not count.
    """
    s = (scale * torch.sigmoid(b.double() / temperature)).clamp(1e-12, 1 - 1e-12)
    outside = (1 - s).log() * candidates
    drawn = torch.where(action, s.log(), (1 - s).log()) * candidates
    total = drawn.sum(-1)
    first = select.best(b.detach(), candidates, torch.ones_like(b[:, 0], dtype=torch.long))
    fallback = (action == first).all(-1) & candidates.any(-1)
    return torch.where(fallback, torch.logaddexp(total, outside.sum(-1)), total)
