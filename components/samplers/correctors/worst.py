"""What correctors that mask the worst tokens share. Each paper's file says how many, and when."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from components.samplers.correctors.base import Correcting, Wants
from components.samplers.correctors.scores import Scored
from components.samplers.owners import Start
from components.samplers.state import Field, State, Written
from components.samplers.view import View


class Remask(Correcting):
    """A corrector with a score of written tokens."""

    def __init__(self, score: str):
        self.score = Scored(score)
        self.heads, self.reads = self.score.heads, self.score.reads
        self.reads_left_out = self.score.reads_left_out

    def begin(self, start: Start) -> dict[str, Field]:
        return self.score.begin(start)

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        return self.score.update(state, written, view)

    def wants(self, state: State, masked: Tensor, due: Tensor, reach: Tensor) -> Wants:
        wants = super().wants(state, masked, due, reach)
        if not self.score.reads_current:
            return wants
        return Wants(wants.best, wants.sampled, ~masked & ~state.fixed)


class Swap(Remask):
    """One that keeps to a plan over the ticks that each row has, ``num_ticks`` [R]."""

    def begin(self, start: Start) -> dict[str, Field]:
        return super().begin(start) | {"num_ticks": Field(start.num_ticks)}


def num_left_masked(view: View) -> Tensor:
    """[R]: masks that the schedule leaves in the active block at this tick; no more tokens can be masked and made up
    for in the same tick."""
    return (view.window.sum(-1) - view.quota).clamp(min=0)
