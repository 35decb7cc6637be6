"""Surveys: completions of rows that are still partly masked, for searches that estimate where a chain leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from components.diffusion import categorical, noise
from components.diffusion.noise import Stream
from components.samplers.owners import Start
from components.samplers.state import Field, State, Written, choose_rows
from components.samplers.view import View


@dataclass(frozen=True)
class Survey:
    """At some ticks a call is made in any case, and completions of the row as it then is are kept in the field
    ``guess`` [R, num_guesses, L]."""

    every: int = 0
    """At ticks that this divides; 0 is never."""
    num_guesses: int = 1
    """Completions."""
    drawn: bool = False
    """They are drawn; else all of them are the argmax."""

    def due(self, state: State, steps: int) -> Bool[Tensor, "R"]:
        """Rows that stand at a tick of the survey."""
        if not self.every:
            return torch.zeros_like(state.active)
        return (state.tick % self.every == 0) & (state.tick <= steps)

    def next_due(self, state: State, steps: int) -> Int[Tensor, "R"]:
        """The first tick of the survey at or after each row's; T + 1 if there is none at all."""
        if not self.every:
            return torch.full_like(state.tick, steps + 1)
        return -(-state.tick // self.every) * self.every

    def begin(self, start: Start) -> dict[str, Field]:
        if not self.every:
            return {}
        return {"guess": Field(start.canvas[:, None].expand(-1, self.num_guesses, -1).contiguous())}

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        if not self.every:
            return {}
        return {"guess": choose_rows(self.due(state, steps), self.complete(state, view), state["guess"])}

    def complete(self, state: State, view: View) -> Int[Tensor, "R P L"]:
        """Completions of the canvas, each position from its own prediction."""
        completions = []
        for number in range(self.num_guesses):
            if self.drawn:
                u = noise.uniform(state.keys, state.tick, number, view.at.length, Stream.GUESS)
                words = categorical.inverse_cdf(torch.softmax(view.logits, -1), u.flatten()[view.at.position])
            else:
                words = categorical.best(view.logits)
            completions.append(torch.where(view.masked, view.at.wanted(words, state.tokens), state.tokens))
        return torch.stack(completions, dim=1)
