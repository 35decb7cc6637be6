"""What every part that keeps fields in the state has in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.samplers.state import Field, State, Written
from components.samplers.view import View


@dataclass(frozen=True, kw_only=True)
class Start:
    """Rows before their first tick."""

    canvas: Int[Tensor, "R L"]
    fixed: Bool[Tensor, "R L"]
    masked: Bool[Tensor, "R L"]
    """Positions to be written."""
    keys: Int[Tensor, "R 2"]
    """Random keys."""
    steps: int
    """T."""
    num_ticks: Int[Tensor, "R"]
    """Ticks of these that a row has before it is full, where that is known ahead; else T."""
    times: Float[Tensor, "T1"]
    """The schedule's grid of T + 1 times from 1 down, float64."""


@runtime_checkable
class Owner(Protocol):
    """A part with fields of its own in the state: schedule, corrector, inputs, guard, survey."""

    def begin(self, start: Start) -> dict[str, Field]:
        """The fields that it keeps, at the start."""

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        """New values of some of its fields after a write; ``state`` is from before it. They are taken in rows whose
        tick ended. What a field declares for tokens that are masked again is done after it."""
