"""Correctors: which visible tokens change, and on which prediction masked ones are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.samplers.options.correctors import NoCorrectorConfig
from components.samplers.owners import Owner, Start
from components.samplers.state import Field, State, Written
from components.samplers.view import View


@dataclass(frozen=True)
class Wants:
    """What a corrector will read of the next answer."""

    best: Bool[Tensor, "R L"]
    """Where it will read the most probable token."""
    sampled: Bool[Tensor, "R L"]
    """Where it will read a token drawn for the draft."""
    current: Bool[Tensor, "R L"]
    """Where it will read the probability of the token that is there."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the corrector makes of an answer."""

    commits: Bool[Tensor, "R"]
    """The tick ends with this answer; masked tokens are drawn from it."""
    draft: Int[Tensor, "R L"]
    """What to look at next."""
    inner: Int[Tensor, "R"]
    """The next corrector pass; 0 on commit."""
    replace: Bool[Tensor, "R L"]
    """Visible tokens to overwrite on commit,"""
    replacement: Int[Tensor, "R L"]
    """by these,"""
    probability: Float[Tensor, "R L"]
    """which have this probability."""
    remask: Bool[Tensor, "R L"]
    """Visible tokens to mask again on commit."""
    urgency: Float[Tensor, "R L"]
    """Which changes come first where a limit allows only some."""
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    """New values of its own fields, on commit or not."""


@runtime_checkable
class Corrector(Owner, Protocol):
    """A part of a sampler.

    Two arguments return in its methods. ``due`` [R] bool: rows in which it decides something at this tick. ``reach``
    [R, L] bool: positions up to the end of the active block, beyond which a corrector that works left to right
    leaves its draft alone; without blocks, all positions.
    """

    num_passes: int
    """Most corrector calls in a tick."""
    extra_calls: int
    """Most calls after the last tick."""
    needs_answer: bool
    """It decides from an answer, so ticks that are due need a call."""
    heads: tuple[str, ...]
    """Heads that it reads."""
    reads: frozenset[str]
    """Of the view, what is worked out where it is asked for: ``sampled`` with its probability, the log-odds that it compares,
    ``log_odds``, ``best_odds``, ``current_odds``, and what it decides by of ``log_best`` and ``current``, which are there besides where edits
    are followed. A limit on edits a call has ``best_odds`` in any case."""
    reads_left_out: bool
    """It reads ``View.left_out``, which takes one more input for each position."""

    def pace(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """(masked share at each of T + 1 times, sigma that the reveal probability makes up for at each tick [T])."""

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """[R] bool: does it decide something at the tick that each row stands at?"""

    def next_due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """[R]: the first tick, at or after the row's, at which it acts even without an event of the schedule; T + 1 if
        there is none."""

    def lingers(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """[R] bool: it wants another call although the row is full or its ticks are over."""

    def asks(self, state: State, masked: Tensor, due: Tensor) -> Tensor:
        """[R] bool: before the first pass of a tick, it needs a call even if nothing may be revealed."""

    def wants(self, state: State, masked: Tensor, due: Tensor, reach: Tensor) -> Wants:
        """What it will read of the answer to the next query."""

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        """Which visible tokens change, and whether the tick ends with this answer."""


class Correcting:
    """What most correctors have in common: they decide at every tick, at once, from the predictor's answer."""

    num_passes = 0
    extra_calls = 0
    needs_answer = True
    heads: tuple[str, ...] = ()
    reads: frozenset[str] = frozenset()
    reads_left_out = False

    def pace(self, times: Tensor) -> tuple[Tensor, Tensor]:
        return times, torch.zeros_like(times[1:])

    def begin(self, start: Start) -> dict[str, Field]:
        return {}

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return state.tick <= steps

    def next_due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return torch.full_like(state.tick, steps + 1)

    def lingers(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return torch.zeros_like(state.active)

    def asks(self, state: State, masked: Tensor, due: Tensor) -> Tensor:
        return due & self.needs_answer

    def wants(self, state: State, masked: Tensor, due: Tensor, reach: Tensor) -> Wants:
        nowhere = torch.zeros_like(masked)
        return Wants(nowhere, nowhere, nowhere)

    def update(self, state: State, written: Written, view: View, steps: int) -> Mapping[str, Tensor]:
        return {}


def verdict(
    state: State,
    *,
    remask: Tensor | None = None,
    replace: Tensor | None = None,
    replacement: Tensor | None = None,
    probability: Tensor | None = None,
    urgency: Tensor | None = None,
    fields: Mapping[str, Tensor] | None = None,
) -> Verdict:
    """The verdict of a corrector that ends its ticks at once; what is left out changes nothing."""
    nowhere = torch.zeros_like(state.fixed)
    nothing = torch.zeros_like(state.confidence)
    return Verdict(
        commits=torch.ones_like(state.active),
        draft=state.tokens,
        inner=torch.zeros_like(state.inner),
        replace=nowhere if replace is None else replace,
        replacement=state.tokens if replacement is None else replacement,
        probability=nothing if probability is None else probability,
        remask=nowhere if remask is None else remask,
        urgency=nothing if urgency is None else urgency,
        fields=fields or {},
    )


class NoCorrector(Correcting):
    """A token once written stays."""

    needs_answer = False

    def __init__(self, config: NoCorrectorConfig):
        del config

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return torch.zeros_like(state.active)

    def correct(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        return verdict(state)
