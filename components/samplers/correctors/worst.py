"""What correctors that mask the worst tokens share. Each paper's file says how many, and when."""

from __future__ import annotations

from torch import Tensor

from components.samplers.correctors.base import Correcting, Wants
from components.samplers.correctors.scores import Scored
from components.samplers.state import State


class Remask(Correcting):
    """A corrector with a score of written tokens."""

    def __init__(self, score: str):
        self.score = Scored(score)
        self.heads = self.score.heads
        self.reads_left_out = self.score.reads_left_out

    def start(self, masked: Tensor, keys: Tensor, times: Tensor) -> dict[str, Tensor]:
        return self.score.start(masked)

    def wants(self, state: State, masked: Tensor, due: Tensor, reach: Tensor) -> Wants:
        wants = super().wants(state, masked, due, reach)
        if not self.score.reads_current:
            return wants
        return Wants(wants.best, wants.sampled, ~masked & ~state.fixed)

    def forget(self, changed: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.score.forget(changed, parts)


def room(view_quota: Tensor, masked: Tensor) -> Tensor:
    """[R]: masks that a tick leaves masked; no more can be taken back and made up for in the same tick."""
    return (masked.sum(-1) - view_quota).clamp(min=0)
