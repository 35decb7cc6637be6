"""Correctors: which visible tokens change, and on which prediction masked ones are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from components.samplers.config import NoCorrectorConfig
from components.samplers.state import State


@dataclass(frozen=True)
class View:
    """One step's answer, spread over the canvas. R rows, L positions."""

    masked: Tensor
    """[R, L] bool: masks of the canvas."""
    best: Tensor
    """[R, L]: the most probable token where logits were wanted, the input elsewhere."""
    margin: Tensor
    """[R, L]: log-probability of ``best`` there."""
    sampled: Tensor
    """[R, L]: a token drawn for the draft, where one was wanted."""


@dataclass(frozen=True)
class Verdict:
    """What the corrector makes of an answer."""

    commits: Tensor
    """[R] bool: the tick ends with this answer; masked tokens are drawn from it."""
    draft: Tensor
    """[R, L]: what to look at next, and on commit what visible tokens become."""
    inner: Tensor
    """[R]: the next corrector pass; 0 on commit."""
    parts: dict[str, Tensor]


class Corrector(Protocol):
    """A part of a sampler."""

    num_passes: int
    """Most corrector calls in a tick."""

    def start(self, keys: Tensor, length: int) -> dict[str, Tensor]: ...

    def due(self, tick: Tensor) -> Tensor:
        """[R] bool: does the corrector run at these ticks?"""

    def next_due(self, tick: Tensor, steps: int) -> Tensor:
        """[R]: the first tick at or after ``tick`` at which it runs; beyond T if none."""

    def wants(self, state: State, masked: Tensor) -> tuple[Tensor, Tensor]:
        """[R, L] bool each: where the best token, and where a drawn draft token, will be read, at ticks that are due."""

    def judge(self, state: State, view: View, steps: int) -> Verdict: ...


class NoCorrector:
    """A token once written stays."""

    num_passes = 0

    def __init__(self, config: NoCorrectorConfig):
        del config

    def start(self, keys: Tensor, length: int) -> dict[str, Tensor]:
        return {}

    def due(self, tick: Tensor) -> Tensor:
        return torch.zeros_like(tick, dtype=torch.bool)

    def next_due(self, tick: Tensor, steps: int) -> Tensor:
        return torch.full_like(tick, steps + 1)

    def wants(self, state: State, masked: Tensor) -> tuple[Tensor, Tensor]:
        nowhere = torch.zeros_like(masked)
        return nowhere, nowhere

    def judge(self, state: State, view: View, steps: int) -> Verdict:
        return Verdict(torch.ones_like(state.active), state.tokens, torch.zeros_like(state.inner), {})
