"""Ask, forward, tell: what passes between a sampler and the engine.

A sampler is a pure transition on rows. It says what the network should look at next; the engine runs
the network and counts the cost; the sampler is told what came back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from components.samplers.state import Record, State


@dataclass(frozen=True)
class Query:
    """Q network inputs, none, one or several for each row of the state."""

    row: Tensor
    """[Q]: the row of the state that each input belongs to."""
    active: Tensor
    """[Q] bool: inputs that are really wanted; the others are padding and cost nothing."""
    tokens: Tensor
    """[Q, L]."""
    time: Tensor
    """[Q]: the row's own time, for networks that read it."""
    wanted: Tensor
    """[Q, L] bool: positions whose logits the sampler will read."""
    drawn: Tensor
    """[Q, L] bool, inside ``wanted``: positions at which a token will be drawn. Elsewhere the best
    token is enough, so no distribution is made there."""


@dataclass(frozen=True)
class Answer:
    """What came back, for the N wanted positions of active inputs."""

    select: Tensor
    """[N]: flat positions, input * L + position, ascending."""
    logits: Tensor
    """[N, V] float32, raw."""
    draw: Tensor
    """[M]: places in ``select`` of the positions to draw at."""


@dataclass(frozen=True)
class Samples:
    """Finished rows."""

    ids: Tensor
    tokens: Tensor
    edits: Tensor


class Sampler(Protocol):
    """See the module's first paragraph. ``advance`` is batched, without a loop over rows."""

    def start(self, canvas: Tensor, fixed: Tensor, ids: Tensor, seed: int) -> State:
        """Rows at the start. ``canvas`` [R, L] holds masks where something is to be written."""

    def query(self, state: State) -> Query: ...

    def advance(self, state: State, answer: Answer) -> tuple[State, Record]: ...

    def finish(self, state: State) -> Samples: ...

    def max_calls(self, length: int) -> int:
        """No row of this length ever needs more calls."""
