"""A search that keeps the chain of largest token ids."""

from __future__ import annotations

from torch import Tensor

from components.samplers.search.base import Group
from components.samplers.state import State


class TopHeavy(Group):
    barriers = False

    def weigh(self, state: State, finished: Tensor, rewards: Tensor) -> State:
        return state.having({"estimate": state.tokens.sum(-1).double()})

    def pick(self, state: State) -> Tensor:
        return state["estimate"].view(-1, self.width).argmax(-1)
