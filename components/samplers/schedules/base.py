"""Schedules: how much is revealed by when. Each works for all rows at once on its own fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from components.diffusion import select
from components.samplers.contract import Extras
from components.samplers.correctors.base import Corrector
from components.samplers.owners import Owner, Start
from components.samplers.state import Field, State, Written
from components.samplers.view import View


@runtime_checkable
class Schedule(Owner, Protocol):
    """A part of a sampler. ``steps`` is T; ticks are 1..T. ``window`` [R, L] are the masks of the active block."""

    ends_when_full: bool
    """A row without masks is finished, even if ticks are left."""
    reads: frozenset[str]
    """Fields of the view that it needs beside the confidence."""

    def times(self, steps: int, device: torch.device) -> Tensor:
        """The grid [T + 1] from 1 down, float64."""

    def num_ticks(self, num_masks: Tensor, steps: int) -> Tensor:
        """[R]: ticks that rows with so many masks have before they are full, where that is known ahead; else T."""

    def enter(self, state: State, window: Tensor, steps: int, num_blocks: Tensor) -> Mapping[str, Tensor]:
        """New values of its fields in rows that begin a block."""

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        """[R, L] bool: masked positions that may be revealed at this tick."""

    def quota(self, state: State, window: Tensor, steps: int) -> Tensor:
        """[R]: how many of them; 0 where it does not count."""

    def choose(
        self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The candidates [R, L] bool that are revealed, and what a policy needs to learn from this choice.

        Args:
            candidates: [R, L] bool, within ``positions``.
            score: [R, L], of the order; larger comes first.
            count: [R], the quota and as many more as the corrector masks and wants made up for.
        """

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        """[R]: the first tick at or after the current one at which something may be revealed; T + 1 if none."""

    def redraw(self, state: State, masked: Tensor, remasked: Tensor, steps: int) -> dict[str, Tensor]:
        """What it had drawn ahead, drawn again for positions [R, L] that were masked again at the state's tick;
        ``masked`` were so before."""

    def time(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """[R]: t, for networks that read it."""


class Base:
    """What most schedules have in common: any mask of the active block may be revealed, at every tick."""

    ends_when_full = True
    reads: frozenset[str] = frozenset()

    def __init__(self, config: object, corrector: Corrector, extras: Extras):
        del config, corrector, extras

    def times(self, steps: int, device: torch.device) -> Tensor:
        return 1 - torch.arange(steps + 1, dtype=torch.float64, device=device) / steps

    def num_ticks(self, num_masks: Tensor, steps: int) -> Tensor:
        return torch.full_like(num_masks, steps)

    def begin(self, start: Start) -> dict[str, Field]:
        return {}

    def enter(self, state: State, window: Tensor, steps: int, num_blocks: Tensor) -> Mapping[str, Tensor]:
        return {}

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        return window

    def quota(self, state: State, window: Tensor, steps: int) -> Tensor:
        return torch.zeros_like(state.tick)

    def choose(
        self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.reveal(state, candidates, score, view, count), {}

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        """The choice alone, of schedules from which no policy learns: the ``count`` candidates of largest score."""
        return select.best(score, candidates, count)

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        return torch.where(window.any(-1), state.tick, steps + 1)

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        return self.redraw(state, view.masked, written.remasked, steps)

    def redraw(self, state: State, masked: Tensor, remasked: Tensor, steps: int) -> dict[str, Tensor]:
        return {}

    def time(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return (1 - (state.tick - 1) / steps).clamp(min=0).float()
