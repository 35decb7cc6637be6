"""The state of sampled rows, and the one function that writes a canvas."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """R rows of L positions, each at a place of its own in its own trajectory."""

    tokens: Tensor
    """[R, L] int64: the canvas."""
    fixed: Tensor
    """[R, L] bool: prompts and templates. The mask id never marks them."""
    ids: Tensor
    """[R] int64: sample ids."""
    keys: Tensor
    """[R, 2]: random keys."""
    tick: Tensor
    """[R]: logical step, 1..T; T + 1 is the last fill. It never counts calls."""
    inner: Tensor
    """[R]: 0 before the predictor pass of the tick, j before its j-th corrector pass."""
    active: Tensor
    """[R] bool: the row still needs calls."""
    draft: Tensor
    """[R, L]: what the corrector is looking at."""
    edits: Tensor
    """[R]: visible tokens replaced so far."""
    parts: dict[str, Tensor]
    """Fields that parts registered at the start, each with R rows."""

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """The same with every field changed, for selecting and moving rows."""
        values = {f.name: change(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "parts"}
        return State(**values, parts={name: change(value) for name, value in self.parts.items()})

    def place(self, lanes: Tensor, rows: State) -> State:
        """The same with ``rows`` written into the given lanes."""

        def put(old: Tensor, new: Tensor) -> Tensor:
            return old.index_copy(0, lanes, new)

        values = {
            f.name: put(getattr(self, f.name), getattr(rows, f.name))
            for f in dataclasses.fields(self)
            if f.name != "parts"
        }
        parts = {name: put(self.parts[name], rows.parts[name]) for name in self.parts}
        return State(**values, parts=parts)


@dataclass(frozen=True)
class Record:
    """What one step did: input of the trace viewer, of dirty sets for caches, of policies that learn."""

    before: Tensor
    after: Tensor
    """[R, L]: the canvas."""
    confidence: Tensor
    """[R, L]: probability of the token that was written, where one was."""
    revealed: Tensor
    replaced: Tensor
    """[R, L] bool."""
    tick: Tensor
    inner: Tensor
    """[R]: of the call that was answered."""


def write(
    state: State, reveal: Tensor, revealed: Tensor, replace: Tensor, replacement: Tensor, mask_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The only place where a canvas changes.

    Args:
        reveal: [R, L] bool, where to write ``revealed`` [R, L]; takes effect on masks only.
        replace: [R, L] bool, where to write ``replacement`` [R, L]; takes effect on visible,
            unfixed tokens only. Both sets are judged on the canvas as it was before the step.
    Returns:
        (tokens, really revealed, really replaced).
    """
    masked = (state.tokens == mask_id) & ~state.fixed
    reveal = reveal & masked
    replace = replace & ~masked & ~state.fixed & (replacement != state.tokens)
    tokens = torch.where(reveal, revealed, torch.where(replace, replacement, state.tokens))
    return tokens, reveal, replace
