"""Best of n: independent chains, and the one of largest reward, or of largest probability, is kept."""

from __future__ import annotations

from torch import Tensor

from components.samplers.config import SamplerConfig
from components.samplers.contract import Extras, Vocabulary
from components.samplers.search.base import Group
from components.samplers.state import State


class BestOf(Group):
    """Independent chains; the largest reward, or the largest log-probability of its tokens, is kept."""

    barriers = False

    def __init__(self, config: SamplerConfig, vocabulary: Vocabulary, extras: Extras):
        self.rewarded = bool(config.search.reward_name)
        super().__init__(config, vocabulary, extras)

    def weigh(self, state: State, finished: Tensor, rewards: Tensor) -> State:
        value = rewards[:, 0] if self.rewarded else self.belief(state)
        return state.having({"estimate": value.double()})

    def pick(self, state: State) -> Tensor:
        return state["estimate"].view(-1, self.width).argmax(-1)
