"""Self-rewarding SMC ("Self-Rewarding Sequential Monte Carlo for Masked Diffusion Language Models", arXiv
2602.01849): log w grows by lambda times the change of sum_i log f_i(x_i) over the tokens that a chain holds
NOW, so remasking or overwriting a token takes its share back. (The released code adds what was committed and
never subtracts.) The probabilities are untempered and from before nucleus and top-k. For an exact kernel,
lambda = 1 and a pick by weight the law is p squared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.samplers.search.base import Group
from components.samplers.state import State


class SelfRewarding(Group):
    """Chains weighted by the probability of the tokens that they hold."""

    def weigh(self, state: State, finished: Tensor, rewards: Tensor) -> State:
        belief = self.belief(state)
        power = torch.full_like(belief, self.search.exponent)
        if self.search.ramp:
            steps = self.base.parts.ticks(state.tokens.shape[1])
            power = power * ((state.tick - 1) / steps).clamp(max=1)
        gain = power * (belief - state["estimate"])
        return state.having({"log_weight": state["log_weight"] + gain, "estimate": belief})

    def pick(self, state: State) -> Tensor:
        if self.search.pick == "weight":
            return self.by_weight(state, state["log_weight"])
        if self.search.pick == "best":
            return state["estimate"].view(-1, self.width).argmax(-1)
        return torch.zeros(len(state.ids) // self.width, dtype=torch.int64, device=state.ids.device)
