"""A search that keeps the chain of largest token ids."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from components.samplers.search.base import Group
from components.samplers.state import State


class TopHeavy(Group):
    barriers = False

    def weigh(self, state: State, finished: Tensor, rewards: Tensor) -> State:
        return replace(state, parts=state.parts | {"estimate": state.tokens.sum(-1).double()})

    def pick(self, state: State) -> Tensor:
        return state.parts["estimate"].view(-1, self.width).argmax(-1)
