"""The state of sampled rows, and the one function that writes a canvas."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

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
    """[R] bool: the row is not finished."""
    draft: Tensor
    """[R, L]: what the corrector is looking at."""
    confidence: Tensor
    """[R, L] float32: probability of each visible token when it was written; 1 where fixed."""
    edits: Tensor
    """[R]: visible tokens replaced or remasked so far."""
    parts: dict[str, Tensor]
    """Fields that parts registered at the start, each with R rows."""

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """The same with every field changed, for selecting and moving rows."""
        return self.rebuild({name: change(value) for name, value in self.fields().items()})

    def place(self, lanes: Tensor, rows: State) -> State:
        """The same with ``rows`` written into the given lanes."""
        new = rows.fields()
        return self.rebuild({name: old.index_copy(0, lanes, new[name]) for name, old in self.fields().items()})

    def where(self, chosen: Tensor, other: State) -> State:
        """This state in the chosen rows [R], ``other`` in the rest."""
        theirs = other.fields()
        return self.rebuild({name: choose_rows(chosen, mine, theirs[name]) for name, mine in self.fields().items()})

    def fields(self) -> dict[str, Tensor]:
        """All tensors by name; a part's as ``parts.name``."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "parts"}
        return own | {f"parts.{name}": value for name, value in self.parts.items()}

    def rebuild(self, fields: dict[str, Tensor]) -> State:
        """The same with some of ``fields()`` exchanged."""
        merged = self.fields() | fields
        parts = {name[6:]: value for name, value in merged.items() if name.startswith("parts.")}
        return State(**{n: v for n, v in merged.items() if not n.startswith("parts.")}, parts=parts)


def choose_rows(chosen: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    """Rows of ``ours`` where chosen [R], of ``theirs`` elsewhere."""
    return torch.where(chosen.view(-1, *[1] * (ours.dim() - 1)), ours, theirs)


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
    remasked: Tensor
    """[R, L] bool."""
    tick: Tensor
    inner: Tensor
    """[R]: of the call that was answered."""
    learned: dict[str, Tensor] = field(default_factory=dict)
    """What a policy needs to learn from: confidence c, masked m, time t, action u, logpi; [R, L] and [R]."""


@dataclass(frozen=True)
class Written:
    """A canvas after a step, and what really changed. All [R, L]."""

    tokens: Tensor
    revealed: Tensor
    replaced: Tensor
    remasked: Tensor


def write(
    state: State,
    reveal: Tensor,
    revealed: Tensor,
    replace: Tensor,
    replacement: Tensor,
    remask: Tensor,
    mask_id: int,
) -> Written:
    """The only place where a canvas changes.

    The three sets are judged on the canvas as it was before the step, so a token is never revealed
    and remasked in one step.

    Args:
        reveal: [R, L] bool, where to write ``revealed`` [R, L]; takes effect on masks only.
        replace: [R, L] bool, where to write ``replacement`` [R, L]; takes effect on visible,
            unfixed tokens only, and not where they are remasked.
        remask: [R, L] bool, where to write the mask; takes effect on visible, unfixed tokens only.
    """
    masked = (state.tokens == mask_id) & ~state.fixed
    visible = ~masked & ~state.fixed
    reveal = reveal & masked
    remask = remask & visible
    replace = replace & visible & ~remask & (replacement != state.tokens)
    tokens = torch.where(reveal, revealed, torch.where(replace, replacement, state.tokens))
    return Written(tokens.masked_fill(remask, mask_id), reveal, replace, remask)
