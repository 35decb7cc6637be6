"""Correctors: which visible tokens change, and on which prediction masked ones are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from components.samplers.options.correctors import NoCorrectorConfig
from components.samplers.state import State
from components.samplers.view import View


@dataclass(frozen=True)
class Wants:
    """What a corrector will read of the next answer. [R, L] bool each."""

    best: Tensor
    """Where the most probable token."""
    sampled: Tensor
    """Where a token drawn for the draft."""
    current: Tensor
    """Where the probability of the token that is there."""


@dataclass(frozen=True)
class Verdict:
    """What the corrector makes of an answer."""

    commits: Tensor
    """[R] bool: the tick ends with this answer; masked tokens are drawn from it."""
    draft: Tensor
    """[R, L]: what to look at next."""
    inner: Tensor
    """[R]: the next corrector pass; 0 on commit."""
    replace: Tensor
    """[R, L] bool: visible tokens to overwrite on commit,"""
    replacement: Tensor
    """[R, L]: by these,"""
    probability: Tensor
    """[R, L]: which have this probability."""
    remask: Tensor
    """[R, L] bool: visible tokens to mask again on commit."""
    urgency: Tensor
    """[R, L]: which changes come first where a limit allows only some."""
    parts: dict[str, Tensor]


class Corrector(Protocol):
    """A part of a sampler."""

    num_passes: int
    """Most corrector calls in a tick."""
    extra_calls: int
    """Most calls after the last tick."""
    needs_answer: bool
    """It decides from an answer, so ticks that are due need a call."""
    heads: tuple[str, ...]
    """Heads that it reads."""
    reads_left_out: bool
    """It reads ``View.left_out``, which takes one more input for each position."""

    def pace(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """(masked share at each of T + 1 times, sigma that the reveal probability makes up for at each tick [T])."""

    def start(self, masked: Tensor, keys: Tensor, times: Tensor) -> dict[str, Tensor]:
        """Fields to register. times: the grid [T + 1] from 1 down."""

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """[R] bool: does it decide something at these ticks?"""

    def next_due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """[R]: the first tick at or after the row's at which it acts without an event of the schedule; T + 1 if none."""

    def lingers(self, state: State, masked: Tensor, steps: int) -> Tensor:
        """[R] bool: it wants another call although the row is full or its ticks are over."""

    def wants(self, state: State, masked: Tensor, due: Tensor, reach: Tensor) -> Wants:
        """``reach`` [R, L] bool: positions up to the end of the active block."""

    def decide(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        """What it makes of an answer; ``due`` [R] and ``reach`` [R, L] bool as above."""

    def forget(self, changed: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fields after the tokens at positions [R, L] were masked or overwritten."""


class Correcting:
    """What most correctors have in common: they decide at every tick, at once, from the predictor's answer."""

    num_passes = 0
    extra_calls = 0
    needs_answer = True
    heads: tuple[str, ...] = ()
    reads_left_out = False

    def pace(self, times: Tensor) -> tuple[Tensor, Tensor]:
        return times, torch.zeros_like(times[1:])

    def start(self, masked: Tensor, keys: Tensor, times: Tensor) -> dict[str, Tensor]:
        return {}

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return state.tick <= steps

    def next_due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return torch.full_like(state.tick, steps + 1)

    def lingers(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return torch.zeros_like(state.active)

    def wants(self, state: State, masked: Tensor, due: Tensor, reach: Tensor) -> Wants:
        nowhere = torch.zeros_like(masked)
        return Wants(nowhere, nowhere, nowhere)

    def forget(self, changed: Tensor, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        return {}


def verdict(
    state: State,
    *,
    remask: Tensor | None = None,
    replace: Tensor | None = None,
    replacement: Tensor | None = None,
    probability: Tensor | None = None,
    urgency: Tensor | None = None,
    parts: dict[str, Tensor] | None = None,
) -> Verdict:
    """Decisions of one pass; what is left out changes nothing."""
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
        parts=parts or {},
    )


class NoCorrector(Correcting):
    """A token once written stays."""

    needs_answer = False

    def __init__(self, config: NoCorrectorConfig):
        del config

    def due(self, state: State, masked: Tensor, steps: int) -> Tensor:
        return torch.zeros_like(state.active)

    def decide(self, state: State, view: View, due: Tensor, reach: Tensor, steps: int) -> Verdict:
        return verdict(state)
