"""Which masked positions come first: a score for each, larger first."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.samplers.options.orders import ConfidenceConfig, EntropyConfig, MarginConfig, RandomConfig
from components.samplers.state import State
from components.samplers.view import View


@runtime_checkable
class Order(Protocol):
    """A part of a sampler."""

    reads: frozenset[str]
    """Fields of the view that it needs; none at all lets positions be picked before the network is asked."""

    def score(self, state: State, view: View | None, steps: int) -> Tensor:
        """[R, L]: of the masked positions, the one of largest score comes first. ``view`` is None before an answer."""


class RandomOrder:
    """Fresh uniforms at every tick."""

    reads: frozenset[str] = frozenset()

    def __init__(self, config: RandomConfig):
        del config

    def score(self, state: State, view: View | None, steps: int) -> Tensor:
        return noise.uniform(state.keys, state.tick, 0, state.tokens.shape[1], Stream.ORDER)


class ByConfidence:
    """The probability of the drawn token under the untempered distribution (MaskGIT, arXiv 2202.04200; LLaDA).

    Compared are log-odds, which order alike and do not saturate: in float32 a probability above 1 - 6e-8 is 1, and sharp
    networks would reveal what is leftmost.
    """

    reads = frozenset({"log_odds"})

    def __init__(self, config: ConfidenceConfig):
        self.noise = config.noise

    def score(self, state: State, view: View | None, steps: int) -> Tensor:
        assert view is not None
        if not self.noise:
            return view.log_odds
        u = noise.uniform(state.keys, state.tick, 0, state.tokens.shape[1], Stream.CHOICE)
        gumbel = -torch.log(-torch.log(u))
        left = (1 - state.tick / steps).clamp(min=0)[:, None]
        return F.logsigmoid(view.log_odds.double()) + self.noise * left * gumbel


class ByMargin:
    """The gap between the two best probabilities (arXiv 2502.06768)."""

    reads = frozenset({"shortfall"})

    def __init__(self, config: MarginConfig):
        del config

    def score(self, state: State, view: View | None, steps: int) -> Tensor:
        assert view is not None
        return -view.shortfall


class ByEntropy:
    """The least uncertain first (Dream, arXiv 2508.15487)."""

    reads = frozenset({"entropy"})

    def __init__(self, config: EntropyConfig):
        del config

    def score(self, state: State, view: View | None, steps: int) -> Tensor:
        assert view is not None
        return -view.entropy
