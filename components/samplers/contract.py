"""Ask, forward, tell: what passes between a sampler and the engine.

A sampler is a pure transition on rows. It says what the network should look at next; the engine runs
the network and counts the cost; the sampler is told what came back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from components.samplers.state import Record, State


@dataclass(frozen=True)
class Row:
    """A canvas to fill."""

    id: int
    canvas: tuple[int, ...]
    """Token ids; the mask where something is to be written."""
    fixed: tuple[bool, ...]
    label: int | None = None
    trace: bool = False


@dataclass(frozen=True)
class Edit:
    """One written token, for the viewer."""

    call: int
    tick: int
    position: int
    old: int
    new: int
    confidence: float
    reason: str


@dataclass(frozen=True)
class Sample:
    """A finished row with its cost."""

    id: int
    tokens: tuple[int, ...]
    calls: int
    call_positions: float
    reward_calls: int
    edits: int
    trace: tuple[Edit, ...] = ()


Reward = Callable[[Tensor, list[Row]], Tensor]
"""(full rows [N, L], the row that each belongs to) -> rewards [N], larger is better."""


@dataclass(frozen=True)
class Query:
    """Q network inputs: none, one or several for each row of the state.

    Inputs come in planes of R: the rows themselves, then, where a score or guidance needs them, the
    same rows seen otherwise. A row's answers arrive together.
    """

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
    unlabelled: Tensor | None = None
    """[Q] bool: inputs that must not see the row's class label."""
    soft: tuple[Tensor, Tensor] | None = None
    """(ids [Q, L, K], weights [Q, L, K]): mixtures that the network sees instead of the tokens."""
    dense: Tensor | None = None
    """[Q, L, D]: noisy embeddings that it sees instead."""
    heads: tuple[str, ...] = ()
    """Heads whose outputs are wanted."""
    rewarded: Tensor | None = None
    """[R, P] bool: which of the ``candidates`` want a reward."""
    candidates: Tensor | None = None
    """[R, P, L]: full rows, P for each row of the state."""


@dataclass(frozen=True)
class Answer:
    """What came back, for the N wanted positions of active inputs."""

    select: Tensor
    """[N]: flat positions, input * L + position, ascending."""
    logits: Tensor
    """[N, V] float32, raw."""
    draw: Tensor
    """[M]: places in ``select`` of the positions to draw at."""
    heads: dict[str, Tensor] = field(default_factory=dict)
    """[Q, L] each; quality is in [0, 1], larger is better."""
    rewards: Tensor | None = None
    """[R, P] float64, larger is better; 0 where none was wanted."""


@dataclass(frozen=True)
class Samples:
    """Finished rows, one for each group."""

    ids: Tensor
    tokens: Tensor
    edits: Tensor


@dataclass(frozen=True)
class Vocabulary:
    """Ids with a meaning."""

    mask_id: int
    never: tuple[int, ...] = ()
    """Ids, besides the mask, that must not be written."""
    end_id: int | None = None
    """The token after which a row's text ends."""


@dataclass(frozen=True)
class Extras:
    """Weights that parts need besides the network's own outputs."""

    policy: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """(confidence [R, L], masked [R, L] bool, time [R]) -> reveal logits [R, L]."""
    embedding: Tensor | None = None
    """[V, D]: unit-norm token embeddings of a network with a noisy-embedding encoder."""


class Sampler(Protocol):
    """See the module's first paragraph. ``advance`` is batched, without a loop over rows."""

    width: int
    """Rows of the state that make one sample; they are contiguous."""

    def start(self, canvas: Tensor, fixed: Tensor, ids: Tensor, seed: int) -> State:
        """Rows at the start, ``width`` for each canvas [B, L], which holds masks where something is to be written."""

    def query(self, state: State) -> Query: ...

    def advance(self, state: State, answer: Answer) -> tuple[State, Record]: ...

    def finish(self, state: State) -> Samples: ...

    def max_calls(self, length: int) -> int:
        """No row of this length ever needs more calls."""
