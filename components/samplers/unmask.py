"""Which masked positions come first: a score for each, larger first."""

from __future__ import annotations

from torch import Tensor

from components.diffusion import noise
from components.diffusion.noise import Stream
from components.samplers.state import State


def random_order(state: State, confidence: Tensor) -> Tensor:
    """Fresh uniforms at every tick. [R, L]."""
    return noise.uniform(state.keys, state.tick, 0, confidence.shape[1], Stream.ORDER)


def by_confidence(state: State, confidence: Tensor) -> Tensor:
    """The probability of the drawn token under the untempered distribution (MaskGIT, LLaDA). [R, L]."""
    return confidence
