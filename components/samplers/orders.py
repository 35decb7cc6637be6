"""Which masked positions come first: a score for each, larger first."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
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
    """The probability of the drawn token under the untempered distribution (MaskGIT, arXiv 2202.04200; LLaDA)."""

    reads = frozenset({"confidence"})

    def __init__(self, config: ConfidenceConfig):
        self.noise = config.noise

    def score(self, state: State, view: View | None, steps: int) -> Tensor:
        assert view is not None
        if not self.noise:
            return view.confidence
        u = noise.uniform(state.keys, state.tick, 0, state.tokens.shape[1], Stream.CHOICE)
        gumbel = -torch.log(-torch.log(u))
        left = (1 - state.tick / steps).clamp(min=0)[:, None]
        return view.confidence.double().clamp(min=1e-300).log() + self.noise * left * gumbel


class ByMargin:
    """The gap between the two best probabilities (arXiv 2502.06768)."""

    reads = frozenset({"margin"})

    def __init__(self, config: MarginConfig):
        del config

    def score(self, state: State, view: View | None, steps: int) -> Tensor:
        assert view is not None
        return view.margin


class ByEntropy:
    """The least uncertain first (Dream, arXiv 2508.15487)."""

    reads = frozenset({"entropy"})

    def __init__(self, config: EntropyConfig):
        del config

    def score(self, state: State, view: View | None, steps: int) -> Tensor:
        assert view is not None
        return -view.entropy
