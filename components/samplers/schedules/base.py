"""Schedules: how much is revealed by when. Each works for all rows at once on its own fields."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from components.diffusion import select
from components.samplers.contract import Extras
from components.samplers.correctors.base import Corrector
from components.samplers.state import State
from components.samplers.view import View


class Schedule(Protocol):
    """A part of a sampler. ``steps`` is T; ticks are 1..T. ``window`` [R, L] are the masks of the active block."""

    ends_when_full: bool
    """A row without masks is finished, even if ticks are left."""
    reads: frozenset[str]
    """Fields of the view that it needs beside the confidence."""

    def times(self, steps: int, device: torch.device) -> Tensor:
        """The grid [T + 1] from 1 down, float64."""

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        """Fields to register. masked: [R, L] bool."""

    def enter(self, state: State, window: Tensor, steps: int, num_blocks: Tensor) -> dict[str, Tensor]:
        """Fields of rows that begin a block."""

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        """[R, L] bool: masked positions that may be revealed at this tick."""

    def quota(self, state: State, window: Tensor, steps: int) -> Tensor:
        """[R]: how many of them; 0 where it does not count."""

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        """[R, L] bool: those that are. ``count`` [R] is the quota and what the corrector took back."""

    def decide(
        self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, and what a policy learns from."""

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        """[R]: the first tick at or after the current one at which something may be revealed; T + 1 if none."""

    def forget(self, state: State, masked: Tensor, remasked: Tensor, steps: int) -> dict[str, Tensor]:
        """Fields after positions [R, L] were masked again at the state's tick; ``masked`` were so before."""

    def time(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """[R]: t, for networks that read it."""


class Base:
    """What most schedules have in common."""

    ends_when_full = True
    reads: frozenset[str] = frozenset()

    def __init__(self, config: object, corrector: Corrector, extras: Extras):
        del config, corrector, extras

    def times(self, steps: int, device: torch.device) -> Tensor:
        return 1 - torch.arange(steps + 1, dtype=torch.float64, device=device) / steps

    def start(self, masked: Tensor, keys: Tensor, steps: int) -> dict[str, Tensor]:
        return {}

    def enter(self, state: State, window: Tensor, steps: int, num_blocks: Tensor) -> dict[str, Tensor]:
        return {}

    def positions(self, state: State, window: Tensor, steps: int) -> Tensor:
        return window

    def quota(self, state: State, window: Tensor, steps: int) -> Tensor:
        return torch.zeros_like(state.tick)

    def reveal(self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor) -> Tensor:
        return select.best(score, candidates, count)

    def decide(
        self, state: State, candidates: Tensor, score: Tensor, view: View, count: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.reveal(state, candidates, score, view, count), {}

    def next_event(self, state: State, window: Tensor, steps: int) -> Tensor:
        return torch.where(window.any(-1), state.tick, steps + 1)

    def forget(self, state: State, masked: Tensor, remasked: Tensor, steps: int) -> dict[str, Tensor]:
        return {}

    def time(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return (1 - (state.tick - 1) / steps).clamp(min=0).float()
