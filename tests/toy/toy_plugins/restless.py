"""A corrector that hides visible tokens at random, with a random stream of its own."""

from __future__ import annotations

from torch import Tensor

from components.diffusion import noise
from components.samplers.correctors.base import Correcting, Verdict, verdict
from components.samplers.state import State
from components.samplers.view import View
from toy_plugins.options import RestlessConfig

STREAM = noise.named_stream("toy_plugins.restless")


class Restless(Correcting):
    needs_answer = False

    def __init__(self, config: RestlessConfig):
        self.config = config

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return state.tick <= steps - self.config.calm

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        u = noise.uniform(state.keys, state.tick, 0, state.tokens.shape[1], STREAM)
        return verdict(state, remask=view.changeable & due[:, None] & (u < self.config.share))
